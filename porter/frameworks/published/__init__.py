"""Models that other packages publish and porter has tables for: PaddleX's and transformers'."""
