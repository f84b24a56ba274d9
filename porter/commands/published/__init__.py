"""Verdicts by models that other packages publish: PaddleX's, transformers', a program itself."""
