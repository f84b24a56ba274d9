"""ONNX files that come back: graphs by template, weights under their canonical names.

`export` writes a model from a template and a state dict, without torch; `recover` returns the
state dict of a file, porter's own or another tool's.
"""
