"""Checkpoints at http and https addresses."""
