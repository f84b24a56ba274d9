"""The weights of an ONNX file."""
