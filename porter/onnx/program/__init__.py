"""Write a Paddle program as an ONNX graph, so that what reads foreign graphs reads it too."""
