"""What stands in the way of a run in float64, or in any other precision."""
