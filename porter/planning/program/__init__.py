"""What a Paddle inference model is, and which of its tensors is which."""
