"""Speed by counts, never by the clock: what is read, held and asked for grows as it should."""

from __future__ import annotations

import os
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from porter import codecs
from porter.errors import InputError
from porter.storage import page_cache, pieces
from porter.storage.input_file import InputFile
from porter.tensors import lazy, operations
from porter.tensors.lazy import MOST_HELD
from porter.tensors.state_dict import StateDict


class Counter:
    """Bytes read from files, and calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.nbytes = self.calls = 0
        lock, real, real_into = threading.Lock(), InputFile.pread, InputFile.pread_into

        def count(nbytes: int) -> None:
            with lock:
                self.nbytes += nbytes
                self.calls += 1

        def pread(file: InputFile, offset: int, nbytes: int) -> bytes:
            count(nbytes)
            return real(file, offset, nbytes)

        def pread_into(file: InputFile, offset: int, buffer: memoryview) -> None:
            count(len(buffer))
            real_into(file, offset, buffer)

        monkeypatch.setattr(InputFile, "pread", pread)
        monkeypatch.setattr(InputFile, "pread_into", pread_into)


def stored(path: Path, arrays: dict[str, Any], format: str = "safetensors") -> StateDict:
    """Write arrays and return them, unread."""
    codecs.write(StateDict.of(arrays), str(path), format, read_back=False, sync=False)
    return codecs.read(str(path))


def turned(state: StateDict) -> StateDict:
    """Return every matrix transposed."""
    matrices = {
        n: operations.Permute((1, 0)).apply(t) for n, t in state.items() if len(t.shape) == 2
    }
    return StateDict({**state, **matrices}, state.origin)


@pytest.mark.parametrize(("read_back", "digests", "passes"), [(False, False, 1), (False, True, 2),
                                                              (True, True, 3)])  # fmt: skip
@pytest.mark.parametrize("transposed", [False, True])
def test_bytes_are_read_as_often_as_promises_ask(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    read_back: bool,
    digests: bool,
    passes: int,
    transposed: bool,
) -> None:
    """Once to convert, once for the digest of the source, once to read the output back."""
    arrays = {f"t{i}": np.ones((600, 500), np.float32) for i in range(4)}
    state = stored(tmp_path / "in.safetensors", arrays)
    state = turned(state) if transposed else state
    counter = Counter(monkeypatch)
    codecs.write(state, str(tmp_path / "out.pdparams"), "paddle", metadata={}, sync=False,
                 read_back=read_back, digests=digests)  # fmt: skip
    assert state.nbytes * passes <= counter.nbytes <= state.nbytes * passes * 1.02


def peak_of(state: StateDict, path: Path) -> int:
    """Return the most memory that Python and NumPy hold while a state dict is written."""
    tracemalloc.start()
    codecs.write(state, str(path), "paddle", sync=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Three times the transposed matrices, the same peak."""
    peaks = []
    for count in (6, 18):
        arrays = {f"t{i}": np.ones((900, 1100), np.float32) for i in range(count)}
        state = turned(stored(tmp_path / f"{count}.safetensors", arrays))
        peaks.append(peak_of(state, tmp_path / f"{count}.pdparams"))
    assert peaks[1] < peaks[0] * 1.5 + (4 << 20)


def test_memory_does_not_grow_with_a_matrix(tmp_path: Path) -> None:
    """A matrix three times as large as may be held is turned in parts."""
    arrays = {"large": np.ones((3, MOST_HELD // 4096, 1024), np.float32).reshape(-1, 1024)}
    state = turned(stored(tmp_path / "in.safetensors", arrays))
    assert state.nbytes > 2.9 * MOST_HELD
    assert peak_of(state, tmp_path / "out.pdparams") < MOST_HELD * 1.5


@pytest.mark.parametrize("format", ["torch", "paddle", "safetensors"])
def test_work_grows_with_the_number_of_tensors_and_no_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    """Four times the tensors are read and written by four times the Python calls, no more."""
    import sys

    calls = []
    monkeypatch.setattr(pieces, "workers", lambda: 1)
    for count in (500, 2000):
        arrays = {f"layer.{i}.weight": np.full(3, i, np.float32) for i in range(count)}
        path = tmp_path / f"{count}.{format}"
        codecs.write(StateDict.of(arrays), str(path), format, sync=False)
        made = 0

        def count_call(frame: object, event: str, arg: object) -> None:
            nonlocal made
            made += event == "call"

        threading.setprofile(count_call)
        sys.setprofile(count_call)
        try:
            state = codecs.read(str(path))
            codecs.write(state, str(tmp_path / "out.pdparams"), "paddle", sync=False, force=True)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
        calls.append(made)
    assert calls[1] < 4.4 * calls[0]


def test_small_tensors_are_written_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand tensors of a kilobyte take a few system calls, not thousands."""
    arrays = {f"t{i}": np.zeros(256, np.float32) for i in range(1000)}
    calls = 0
    real = os.pwrite

    def pwrite(fd: int, data: Any, offset: int) -> int:
        nonlocal calls
        calls += 1
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    codecs.write(StateDict.of(arrays), str(tmp_path / "out.pth"), "torch", sync=False)
    assert calls <= 8


def test_very_large_files_leave_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both files' pages are let go behind the work, and the output's at the end."""
    arrays = {f"t{i}": np.ones((4 << 20,), np.uint8) for i in range(6)}
    state = stored(tmp_path / "in.safetensors", arrays)
    gone: list[tuple[int, int, int]] = []
    monkeypatch.setattr(page_cache, "_BEHIND", 8 << 20)
    monkeypatch.setattr(
        os, "posix_fadvise", lambda fd, at, size, advice: gone.append((fd, at, size))
    )
    codecs.write(state, str(tmp_path / "small.safetensors"), "safetensors")
    assert not gone
    monkeypatch.setattr(os, "sysconf", lambda name: 4096 if name == "SC_PAGE_SIZE" else 1000)
    codecs.write(state, str(tmp_path / "large.safetensors"), "safetensors")
    assert len({fd for fd, _, _ in gone}) == 2
    assert gone[-1][1:] == (0, 0)
    assert sum(size for _, _, size in gone) >= 2 * state.nbytes - (10 << 20)


@pytest.mark.parametrize(
    ("parts", "short", "passes"),
    [(1, 0, 1), (2, 0, 2), (3, 0, 3), (9, 0, 1), (9, 907 * 4 - 1, 1), (9, 907 * 4, 9)],
)
def test_a_matrix_turned_in_parts_is_checked_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: int, short: int, passes: int
) -> None:
    """In a few parts, or of short rows, all is read as often, the checksum with it.

    In many parts of long rows it is read once and column-wise.
    """
    monkeypatch.setattr(lazy, "_SHORT_ROW", short)
    arrays = {"large": np.random.default_rng(0).random((1203, 907), np.float32)}
    state = turned(stored(tmp_path / "in.pth", arrays, "torch"))
    monkeypatch.setattr(lazy, "MOST_HELD", state.nbytes // parts + 8 * 1203)
    counter = Counter(monkeypatch)
    found = b"".join(bytes(block) for block in state["large"].blocks(1 << 16))
    assert found == arrays["large"].T.tobytes()
    assert passes * state.nbytes <= counter.nbytes < (passes + 0.1) * state.nbytes


@pytest.mark.parametrize("short", [0, 1 << 15])
@pytest.mark.parametrize("parts", [1, 3, 9])
def test_damage_is_seen_in_a_matrix_turned_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: int, short: int
) -> None:
    """One bit that flipped is an error, however the matrix is read."""
    monkeypatch.setattr(lazy, "_SHORT_ROW", short)
    arrays = {"large": np.ones((1200, 900), np.float32)}
    path = tmp_path / "in.pth"
    stored(path, arrays, "torch")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    state = turned(codecs.read(str(path)))
    monkeypatch.setattr(lazy, "MOST_HELD", state.nbytes // parts + 4 * 1200)
    with pytest.raises(InputError, match="damaged"):
        list(state["large"].blocks(1 << 16))


@pytest.mark.parametrize("rows", [4000, 12_000])
def test_transposed_source_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """Its digests are taken of what is read for the transposition, in one part or in several."""
    monkeypatch.setattr(lazy, "MOST_HELD", 20 << 20)
    array = np.random.default_rng(0).random((rows, 1000)).astype("f4")
    source = stored(tmp_path / "s.safetensors", {"w": array})
    counter = Counter(monkeypatch)
    out = str(tmp_path / "o.safetensors")
    codecs.write(
        turned(source), out, "safetensors", metadata={}, inputs=[source.origin.path],
        read_back=False, sync=False,
    )  # fmt: skip
    parts = -(-array.nbytes // lazy.MOST_HELD)
    assert parts * array.nbytes <= counter.nbytes < parts * array.nbytes + 100_000
