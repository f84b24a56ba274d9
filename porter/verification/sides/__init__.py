"""The two sides of a comparison: how they are recognised, started and asked."""
