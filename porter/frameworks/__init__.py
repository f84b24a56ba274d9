"""The frameworks, each in its own process: build, load, run, record."""
