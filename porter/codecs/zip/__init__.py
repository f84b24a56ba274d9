"""Zip files, read by strict rules and written as pieces."""
