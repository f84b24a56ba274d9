"""Model definitions that the mapping tables are proven against, twins in torch and paddle.

Each has `forward_features` (the tokens before pooling), `forward_head` (from those tokens to
logits: pooling and classifier) and `reset_classifier`.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
"""The folder that contains them."""
