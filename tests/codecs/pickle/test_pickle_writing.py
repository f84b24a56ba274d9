"""The pickle writer: the standard library is the oracle."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from porter.codecs.pickle.writing import Pickling

WRITTEN: list[Callable[[Pickling], Any]] = [
    lambda out: out.integer(0),
    lambda out: out.integer(255),
    lambda out: out.integer(256),
    lambda out: out.integer(65536),
    lambda out: out.integer(-1),
    lambda out: out.integer(1 << 31),
    lambda out: out.integer(-(1 << 40)),
    lambda out: out.integers(()),
    lambda out: out.integers((1,)),
    lambda out: out.integers((1, 2, 3)),
    lambda out: out.integers((1, 2, 3, 4, 5)),
    lambda out: out.text("é" * 200),
    lambda out: out.boolean(True),
]
VALUES_WRITTEN = [0, 255, 256, 65536, -1, 1 << 31, -(1 << 40), (), (1,), (1, 2, 3), (1, 2, 3, 4, 5)]
VALUES_WRITTEN += ["é" * 200, True]  # type: ignore[list-item]


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(("write", "value"), list(zip(WRITTEN, VALUES_WRITTEN, strict=True)))
def test_what_is_written_is_what_pickle_writes(
    write: Callable[[Pickling], Any], value: Any, protocol: int
) -> None:
    """The writer's opcodes for plain values are those of the standard library, frames aside."""
    out = Pickling(protocol)
    write(out)
    buffer = io.BytesIO()
    pickle._Pickler(buffer, protocol).dump(value)  # type: ignore[attr-defined]
    expected = buffer.getvalue()
    if protocol == 4 and expected[2:3] == b"\x95":
        expected = expected[:2] + expected[11:]
    assert out.raw(b".").take() == expected


def test_memo_reaches_far() -> None:
    """Values are recalled by one byte up to 256 and by four beyond."""
    out = Pickling(2)
    out.raw(b"(")
    for i in range(300):
        out.text(f"name {i}")
    for i in range(300):
        assert out.recall(("text", f"name {i}"))
    assert not out.recall("nothing")
    value = pickle.loads(out.raw(b"t.").take())
    assert value[:300] == value[300:]


def test_equal_tuples_are_written_each_time_and_noted_each_time() -> None:
    """The second is the first's bytes, with a note of its own: frameworks share none."""
    out = Pickling(2)
    out.raw(b"(").integers((300, 2)).integers((300, 2)).integers((1, 2, 3, 4)).raw(b"t")
    assert pickle.loads(out.raw(b".").take()) == ((300, 2), (300, 2), (1, 2, 3, 4))
    once, twice = Pickling(2), Pickling(2)
    first = once.integers((300, 2)).take()
    twice.integers((300, 2)).take()
    assert twice.integers((300, 2)).take() == first[2:].replace(b"q\0", b"q\1")
