"""Models of any origin with their weights: run, judged, recorded."""
