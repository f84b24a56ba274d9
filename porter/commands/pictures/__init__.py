"""Commands that measure on pictures."""
