"""Lazy tensors, state dicts, element types, casts and invertible operations."""
