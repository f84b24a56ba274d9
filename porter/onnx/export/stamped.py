"""The digest that a template carries, so that one which was damaged or edited is not used.

It is the last field of the file, an entry of the metadata, and covers all bytes before it; other
readers of ONNX take it for any other entry. Whoever edits a file on purpose can write a new one:
it is no signature.
"""

from __future__ import annotations

import gzip
import hashlib

from porter.onnx.graph import wire

KEY = "porter.digest"


def stamped(data: bytes) -> bytes:
    """Return a serialised model with its digest; one that has it already stays as it is."""
    return data if is_sound(data) else data + _entry(data)


def is_sound(data: bytes) -> bool:
    """Whether a serialised model ends with the digest of what is before."""
    body = data[: -len(_entry(b""))]
    return data == body + _entry(body)


def _entry(data: bytes) -> bytes:
    text = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return wire.blob(14, wire.text(1, KEY) + wire.text(2, text))


def packed(data: bytes) -> bytes:
    """Return a serialised model as a template's file contains it."""
    return gzip.compress(stamped(data), 9, mtime=0)
