"""Find and name the likely fault behind a failed verdict."""
