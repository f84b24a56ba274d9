"""Paddle checkpoints, read and written without paddle."""
