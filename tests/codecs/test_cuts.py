"""Streams of blocks: what is cut out of them, and how long the blocks are."""

from __future__ import annotations

import numpy as np
import pytest

from porter.codecs.pickle.ndarrays import swapped
from porter.tensors.lazy import LazyTensor
from porter.tensors.streams import ChangedTensor, cut, slabs, span


@pytest.mark.parametrize(
    ("start", "nbytes", "expected"),
    [
        (0, 9, ["abc", "de", "fghi"]),
        (0, 3, ["abc"]),
        (0, 4, ["abc", "d"]),
        (1, 3, ["bc", "d"]),
        (3, 2, ["de"]),
        (4, 3, ["e", "fg"]),
        (5, 4, ["fghi"]),
        (8, 1, ["i"]),
        (2, 0, []),
        (9, 0, []),
    ],
)
def test_part_is_cut_out_of_blocks(start: int, nbytes: int, expected: list[str]) -> None:
    """The part comes without empty blocks, and all blocks are taken: a checksum is at the end."""
    blocks = iter([b"abc", b"de", b"fghi"])
    assert [bytes(part).decode() for part in cut(blocks, start, nbytes)] == expected
    assert next(blocks, None) is None


def test_changed_blocks_are_as_long_as_was_asked() -> None:
    """Blocks of whole elements, and of one element where less was asked for."""
    array = np.arange(20_000, dtype=np.int32)
    tensor = ChangedTensor(LazyTensor.of(array), swapped)
    for limit, longest in ((1 << 14, 1 << 14), ((1 << 14) + 9, (1 << 14) + 8), (1, 4)):
        blocks = [bytes(block) for block in tensor.blocks(limit)]
        assert max(map(len, blocks)) == longest
        assert b"".join(blocks) == array.byteswap().tobytes()


def test_slabs_of_a_matrix() -> None:
    """As many rows at a time as fit, or parts of a row."""
    assert list(slabs((4, 3), (6, 2), 11) or ()) == [(0, (2, 3)), (12, (2, 3))]
    assert list(slabs((4, 3), (6, 2), 5) or ()) == [(6 * row, (1, 3)) for row in range(4)]
    assert list(slabs((2, 3), (6, 2), 3) or ()) == [
        (start + row, (length,)) for row in (0, 6) for start, length in ((0, 2), (4, 1))
    ]
    assert slabs((3, 400), (1, 3), 2) is not None
    assert slabs((400, 300), (1, 400), 500) is None


def test_slabs_read_a_view_four_times_over_at_most() -> None:
    """Two columns of seven at a time are 14 reads of 8 for 28 elements: the limit."""
    assert slabs((7, 4), (1, 7), 8) is not None
    assert slabs((8, 4), (1, 8), 9) is None


def test_span_counts_both_ends() -> None:
    """From the first element to the last, none where there is none."""
    assert (span((), ()), span((0, 4), (4, 1)), span((2, 3), (6, 2))) == (1, 0, 11)
