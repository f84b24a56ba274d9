"""The window over a pickle: its edges, its frames and its limits, to the byte."""

from __future__ import annotations

import struct

import pytest

from porter.codecs.pickle import window
from porter.codecs.pickle.names import COMMON
from porter.codecs.pickle.reading import Unpickler
from porter.codecs.pickle.values import HeldBytes
from porter.errors import InputError

PROTOCOL = b"\x80\x04"


def load(data: bytes, start: int = 0) -> object:
    """Read a pickle that stands behind `start` other bytes."""
    held = HeldBytes(b"\xff" * start + data, "x")
    return Unpickler(held, start, start + len(data), COMMON).load()


def framed(content: bytes) -> bytes:
    """Return a frame."""
    return b"\x95" + struct.pack("<Q", len(content)) + content


def test_a_pickle_of_one_byte_is_cut_short() -> None:
    """What stands behind the end of the file is not taken for opcodes."""
    with pytest.raises(InputError, match="byte 0: the protocol is not 2 to 5"):
        load(b"\x80")


@pytest.mark.parametrize("start", [0, 1000])
def test_a_pickle_of_the_limit_is_read(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes of the pickle are counted, wherever it begins; one more than the limit is one."""
    head = PROTOCOL + framed(b"](" + b"N" * 50)
    monkeypatch.setattr(window, "LARGEST_PICKLE", len(head))
    assert load(head + b"e.", start) == [None] * 50
    monkeypatch.setattr(window, "LARGEST_PICKLE", len(head) - 1)
    with pytest.raises(InputError, match="longer than any weight file's pickle"):
        load(head + b"e.", start)


def test_a_frame_longer_than_a_window_has_an_end() -> None:
    """A frame is held to its end though windows end inside of it."""
    content = b"](" + b"N" * 9000
    assert load(PROTOCOL + framed(content) + b"e.") == [None] * 9000
    cut = framed(content + b"K")  # The number belongs to the opcode, and is behind the frame.
    with pytest.raises(InputError, match="a frame ends inside an opcode"):
        load(PROTOCOL + cut + b"\x07e.")


def test_a_line_has_a_limit() -> None:
    """A name of 255 characters is looked up, and a longer one is not."""
    assert load(PROTOCOL + b"c" + b"x" * 255 + b"\nname\n.").module == "x" * 255
    with pytest.raises(InputError, match="a line is cut short or too long"):
        load(PROTOCOL + b"c" + b"x" * 256 + b"\nname\n.")
