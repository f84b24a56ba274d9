"""How alike the names of two models are."""

from __future__ import annotations

import re

_SAME_WORDS = {
    "query": "q", "key": "k", "value": "v", "out": "o", "output": "o", "dense": "fc",
    "linear": "fc", "lin": "fc", "embeddings": "emb", "embedding": "emb", "embed": "emb",
    "layernorm": "norm", "ln": "norm", "bn": "norm", "batchnorm": "norm", "attention": "attn",
    "position": "pos", "positions": "pos", "word": "tok", "words": "tok", "token": "tok",
    "tokens": "tok", "blocks": "block", "layers": "block", "layer": "block", "classifier": "head",
    "intermediate": "up", "downsample": "shortcut", "self": "own",
}  # fmt: skip
_FEED_FORWARD = {"w1": "gate", "w2": "down", "w3": "up", "wq": "q", "wk": "k", "wv": "v", "wo": "o"}


def words(name: str) -> list[str]:
    """Return the words and numbers of a name, those of one meaning alike."""
    parts = re.split(r"[._/]+", name.lower())
    text = " ".join(_FEED_FORWARD.get(part, part) for part in parts)
    return [_SAME_WORDS.get(word, word) for word in re.findall(r"[a-z]+|[0-9]+", text)]


def likeness(one: str, other: str) -> float:
    """Return how alike two names are, from 0 to 1: the last words count most."""
    a, b = (words(name)[::-1] for name in (one, other))
    if not a or not b:
        return 0.0
    total = 0.0
    for mine, theirs in ((a, b), (b, a)):
        weights = [0.7**index for index in range(len(mine))]
        total += sum(w for word, w in zip(mine, weights, strict=True) if word in theirs) / sum(
            weights
        )
    return total / 2
