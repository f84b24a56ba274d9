"""Read a state dict out of an ONNX file."""
