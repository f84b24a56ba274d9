"""Find and name the likely fault of a failed verdict."""
