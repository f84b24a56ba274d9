"""Files: read by position, written whole or not at all, digested."""
