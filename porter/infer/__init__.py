"""Propose a table from two checkpoints of one model."""
