"""Checkpoints in several files with an index."""
