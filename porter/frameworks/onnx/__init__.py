"""ONNX tools and ONNX Runtime, in a child process."""
