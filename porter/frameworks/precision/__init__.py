"""What a run in float64 needs of models and kernels that are not made for it."""
