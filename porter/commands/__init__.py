"""The library functions behind the commands."""
