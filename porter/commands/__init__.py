"""The library functions that the commands call."""
