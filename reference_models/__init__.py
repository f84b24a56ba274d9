"""Model definitions that the mapping tables are proven against, twins in torch and paddle."""

from pathlib import Path

FOLDER = Path(__file__).parent
"""Where they lie."""
