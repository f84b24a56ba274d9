"""Writers of generated documents: each module returns {path: text}; `generate.py` calls them."""
