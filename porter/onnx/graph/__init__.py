"""An ONNX graph as values: read, written, reduced to the layers that compute."""
