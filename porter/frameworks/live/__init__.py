"""Models that somebody else defines, while they run: their modules, calls and outputs."""
