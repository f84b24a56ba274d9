"""The calls that a pickle may make whatever the framework: what each takes, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from porter.codecs.pickle import names
from porter.codecs.pickle.values import Global, Opaque
from porter.errors import InputError

Call = Callable[[tuple[Any, ...]], object]

TAKEN: dict[str, tuple[Call, tuple[Any, ...], object]] = {
    "dictionary of nothing": (names._dictionary, (), {}),
    "dictionary of pairs": (names._dictionary, ([["a", 1], ("b", 2)],), {"a": 1, "b": 2}),
    "dictionary of a dictionary": (names._dictionary, ({"a": 1},), {"a": 1}),
    "dictionary of a factory": (names._dictionary, (Global("builtins", "int"),), {}),
    "tuple of a list": (names._tuple, ([1, 2],), (1, 2)),
    "tuple of 64": (names._tuple, ([0] * 64,), (0,) * 64),
    "encoded text": (names.encoded, ("é", "latin1"), "é"),
    "encoded text, by the other name": (names.encoded, ("é", "latin-1"), "é"),
    "bytearray of nothing": (names._bytearray, (), b""),
    "bytearray of bytes": (names._bytearray, (b"a",), b"a"),
    "bytearray of text": (names._bytearray, ("é", "latin-1"), "é"),
    "bytes of nothing": (names._bytes, (), b""),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_call_that_is_known_gives_a_plain_value(kind: str) -> None:
    """Each call gives what it would give in Python, as a value of porter's own."""
    call, arguments, expected = TAKEN[kind]
    found = call(arguments)
    assert found == expected
    assert type(found) is type(expected)


REFUSED: dict[str, tuple[Call, tuple[Any, ...], str]] = {
    "dictionary of one pair and a number": (names._dictionary, ([["a", 1], 3],), "are not pairs"),
    "dictionary of three": (names._dictionary, ([["a", 1, 2]],), "are not pairs"),
    "dictionary of a text": (names._dictionary, ("ab",), "of something else"),
    "dictionary of two": (names._dictionary, ({"a": 1}, {"b": 1}), "of something else"),
    "tuple of nothing": (names._tuple, (), "something else than a short list"),
    "tuple of two lists": (names._tuple, ([1], [2]), "something else than a short list"),
    "tuple of 65": (names._tuple, ([0] * 65,), "something else than a short list"),
    "tuple of a text": (names._tuple, ("ab",), "something else than a short list"),
    "text without an encoding": (names.encoded, ("a",), "otherwise than for bytes"),
    "text with three": (names.encoded, ("a", "latin1", "strict"), "otherwise than for bytes"),
    "text in another encoding": (names.encoded, ("a", "utf-8"), "otherwise than for bytes"),
    "number as text": (names.encoded, (3, "latin1"), "otherwise than for bytes"),
    "bytearray of a number": (names._bytearray, (1 << 40,), "something else than bytes"),
    "bytearray of three": (names._bytearray, (b"a", 1, 2), "something else than bytes"),
    "text that is no bytes": (lambda a: names.latin1(*a), ("☃",), "has other characters"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_call_that_is_otherwise_is_refused(kind: str) -> None:
    """A call with other arguments than weight files have is refused."""
    call, arguments, message = REFUSED[kind]
    with pytest.raises(InputError, match=message):
        call(arguments)


def test_list_makes_one_dictionary() -> None:
    """A list of pairs that made a dictionary makes no second one: that would multiply memory."""
    pairs = [["a", 1]]
    names._dictionary((pairs,))
    with pytest.raises(InputError, match="are not pairs"):
        names._dictionary((pairs,))


def test_bytes_of_something_are_kept_as_what_they_are() -> None:
    """What Python 3 would not write for weights is not made."""
    assert isinstance(names._bytes((3,)), Opaque)
