"""Prove that a port is right: weights bit by bit, outputs against float64."""
