"""Views of torch's storages: where each is read from, and in what way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from porter.codecs.torch import views
from porter.codecs.torch.storages import Run, Storage
from porter.codecs.torch.views import TorchTensor
from porter.storage.input_file import InputFile
from porter.tensors.dtypes import DTYPES
from porter.tensors.lazy import LazyTensor, Shape
from porter.tensors.streams import StreamedTensor

NUMBERS = np.arange(64, dtype=np.float32)


class Elsewhere:
    """Bytes that no file has as they are; what is read of them is noted."""

    def __init__(self, *, seekable: bool) -> None:
        self.seekable = seekable
        self.taken: list[int] = []

    def extent(self, offset: int, nbytes: int) -> None:
        return None

    def read(self, offset: int, nbytes: int) -> bytes:
        self.taken.append(nbytes)
        return NUMBERS.tobytes()[offset : offset + nbytes]

    def blocks(self, offset: int, nbytes: int, limit: int) -> Iterator[memoryview]:
        for at in range(offset, offset + nbytes, limit):
            yield memoryview(self.read(at, min(limit, offset + nbytes - at)))


def view(source: Elsewhere | Run, shape: Shape, stride: Shape, offset: int = 1) -> LazyTensor:
    """Return a view of 64 numbers, and hold it to the same view of NumPy."""
    storage = Storage("0", DTYPES["float32"], NUMBERS.nbytes)
    storage.bytes = source
    found = TorchTensor(storage, DTYPES["float32"], offset, shape, stride).lazy()
    steps = [4 * step for step in stride]
    expected = np.ndarray(shape, np.float32, NUMBERS.tobytes(), 4 * offset, steps)
    assert b"".join(map(bytes, found.blocks(64))) == expected.tobytes()
    assert np.array_equal(found.read(), expected)
    return found


CONTIGUOUS: tuple[Shape, Shape] = ((3, 4), (4, 1))
TURNED: tuple[Shape, Shape] = ((3, 4), (1, 3))
GAPS: tuple[Shape, Shape] = ((3, 4), (16, 2))
REPEATED: tuple[Shape, Shape] = ((2, 2), (0, 3))
OVERLAPPING: tuple[Shape, Shape] = ((3, 4), (2, 1))


def test_views_of_a_file_lie_in_it(tmp_path: Path) -> None:
    """In one run, in steps that fill one, or neither: then a block is made at a time."""
    (tmp_path / "a").write_bytes(bytes(8) + NUMBERS.tobytes())
    source = Run(InputFile(tmp_path / "a"), 8)
    found = view(source, *CONTIGUOUS)
    assert found.extent is not None
    assert (found.extent.offset, found.extent.nbytes) == (12, 48)
    found = view(source, *TURNED)
    assert (found.extent, found.strided is None) == (None, False)
    for shape, stride in (GAPS, REPEATED, OVERLAPPING):
        found = view(source, shape, stride)
        assert isinstance(found, StreamedTensor)
        assert (found.extent, found.strided) == (None, None)


@pytest.mark.parametrize("seekable", [True, False])
def test_views_of_what_is_inflated_come_in_blocks(seekable: bool) -> None:
    """In order always; in another order where parts can be read, and whole where they cannot."""
    source = Elsewhere(seekable=seekable)
    assert isinstance(view(source, *CONTIGUOUS), StreamedTensor)
    for shape, stride in (TURNED, GAPS, REPEATED):
        assert isinstance(view(source, shape, stride), StreamedTensor) is seekable
    assert isinstance(view(source, (0, 4), (4, 1)), StreamedTensor)


def test_views_are_read_in_parts_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """No part is longer than what may be held, whichever axis is the widest."""
    source = Elsewhere(seekable=True)
    monkeypatch.setattr(views, "MOST_HELD", 4 * 7)
    assert isinstance(view(source, *GAPS), StreamedTensor)
    assert source.taken[:3] == [28, 28, 28]
    monkeypatch.setattr(views, "MOST_HELD", 4 * 9)
    assert isinstance(view(source, (8, 4), (1, 8)), StreamedTensor)


def test_views_that_only_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be read many times over, and is no matrix of columns, is read at once."""
    source = Elsewhere(seekable=True)
    for shape, stride, most in (
        ((2, 2, 4), (1, 2, 4), 12),
        ((3, 4), (0, 4), 12),
        ((3, 8), (3, 3), 20),
        ((4, 8), (4, 3), 20),
    ):
        monkeypatch.setattr(views, "MOST_HELD", 4 * most)
        assert not isinstance(view(source, shape, stride), StreamedTensor)
    monkeypatch.setattr(views, "MOST_HELD", 4 * 12)
    assert isinstance(view(source, (4, 4), (1, 5)), StreamedTensor)


def test_one_byte_has_no_order(tmp_path: Path) -> None:
    """Numbers of one byte from a big-endian machine are copied as they lie; longer ones turned."""
    (tmp_path / "a").write_bytes(bytes(range(8)))
    for name, stays in (("uint8", True), ("int16", False)):
        dtype = DTYPES[name]
        storage = Storage("0", dtype, 8)
        storage.bytes, storage.big = Run(InputFile(tmp_path / "a"), 0), True
        found = TorchTensor(storage, dtype, 0, (8 // dtype.itemsize,), (1,)).lazy()
        assert (found.extent is not None) is stays
        assert (
            found.read().tolist()
            == np.arange(8, dtype=np.uint8).view(f">{dtype.numpy.str[1:]}").tolist()
        )


@pytest.mark.parametrize(("conj", "neg"), [(True, False), (False, True), (True, True)])
def test_signs_of_complex_numbers(conj: bool, neg: bool) -> None:
    """Of both parts, of the second, or of the first: the second is then turned twice."""
    turned = np.array([1 + 2j, 3 - 4j], np.complex64)
    views._flip_signs(turned, conj, neg)
    expected = np.array([1 + 2j, 3 - 4j], np.complex64)
    expected = expected.conj() if conj else expected
    assert turned.tolist() == (-expected if neg else expected).tolist()


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_sign_of_every_nan_is_turned_alone(name: str) -> None:
    """Arithmetic would make one NaN of all: here the payload stays."""
    bits = np.array([0x7F81, 0x7C01, 0xFFFF, 0x0000], np.uint16)
    turned = bits.copy().view(DTYPES[name].numpy)
    views._flip_signs(turned, conj=False, neg=True)
    assert (turned.view(np.uint16) ^ bits).tolist() == [0x8000] * 4
