"""Mapping tables as data: one TOML file per family."""

from pathlib import Path

FOLDER = Path(__file__).parent
"""The folder of the tables."""
