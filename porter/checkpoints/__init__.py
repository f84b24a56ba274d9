"""Checkpoints as people have them: a file of any format, or a folder with the weights in it."""
