"""PyTorch checkpoints, read and written without torch."""
