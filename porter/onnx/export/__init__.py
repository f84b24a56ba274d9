"""Write ONNX files: a template graph and the weights of a state dict."""
