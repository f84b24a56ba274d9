"""Limits and the system's refusals: each ends in one line, and what lies within comes through."""

from __future__ import annotations

import errno
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from porter import codecs
from porter.codecs import check
from porter.codecs.pickle.names import COMMON
from porter.codecs.pickle.reading import Unpickler
from porter.codecs.pickle.values import HeldBytes
from porter.codecs.zip import directory
from porter.errors import InputError, SystemFault, UsageError
from porter.storage import atomic_output, input_file, sidecar
from porter.storage.input_file import InputFile, open_beside
from porter.storage.pieces import Late
from porter.storage.read_back import differences
from porter.tensors import shared_tensors
from porter.tensors.lazy import BLOCK, LazyTensor
from porter.tensors.state_dict import StateDict


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "a.bin"
    made.write_bytes(bytes(range(100)))
    return made


def test_long_reads_take_several_calls(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux reads 2 GiB at most in one call: what is longer is read in parts."""
    monkeypatch.setattr(input_file, "_LARGEST_READ", 7)
    assert InputFile(path).pread(3, 90) == bytes(range(3, 93))


@pytest.mark.posix
def test_short_reads_are_gone_on_with(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that gives fewer bytes than asked for is asked again."""
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, n, at: pread(fd, n // 2, at))
    assert InputFile(path).pread(0, 100) == bytes(range(100))


def _failing(code: int) -> Callable[..., Any]:
    def call(*args: object, **more: object) -> Any:
        raise OSError(code, os.strerror(code))

    return call


@pytest.mark.posix
def test_disk_that_cannot_be_read_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system says of a read is the machine's fault, not the file's."""
    file = InputFile(path)
    monkeypatch.setattr(os, "pread", _failing(errno.EIO))
    monkeypatch.setattr(os, "preadv", _failing(errno.EIO))
    with pytest.raises(SystemFault, match=r"a\.bin: cannot be read: Input/output error"):
        file.pread(0, 10)
    with pytest.raises(SystemFault, match=r"a\.bin: cannot be read: Input/output error"):
        file.pread_into(0, bytearray(10))


@pytest.mark.posix
def test_file_that_ends_early_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that says a file is longer than it is does not keep porter waiting."""
    file = InputFile(path)
    monkeypatch.setattr(os, "preadv", lambda fd, parts, at: 0)
    with pytest.raises(InputError, match="ends at byte 5"):
        file.pread_into(5, bytearray(10))


@pytest.mark.linux
def test_what_is_no_file_is_closed_at_once(tmp_path: Path) -> None:
    """The descriptor is closed though the error, which knows of it, is still held."""
    before = os.listdir("/proc/self/fd")
    with pytest.raises(InputError, match="is a directory, not a file") as held:
        InputFile(tmp_path)
    assert os.listdir("/proc/self/fd") == before
    assert held.value.path == str(tmp_path)


@pytest.mark.parametrize(
    ("code", "leaf", "message"),
    [
        (errno.EACCES, SystemFault, "permission denied"),
        (errno.EIO, SystemFault, "cannot be opened: Input/output error"),
        (errno.ELOOP, InputError, "cannot be opened: Too many levels"),
        (errno.ENXIO, InputError, "cannot be opened: No such device"),
    ],
)
def test_file_that_cannot_be_opened(
    code: int, leaf: type, message: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the path is to blame for is the input's fault, the rest the machine's."""
    monkeypatch.setattr(os, "open", _failing(code))
    with pytest.raises(leaf, match=message):
        InputFile(path)


def test_file_that_is_exchanged_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A named file that is another one when it is opened than when it was looked at is refused."""
    count = iter(range(9))
    monkeypatch.setattr(input_file, "identity", lambda status: next(count))
    with pytest.raises(InputError, match=r"names the file a\.bin, which moved meanwhile"):
        open_beside(str(path), "a.bin", hard_links=True)


def test_content_tells_the_format_of_a_path(tmp_path: Path) -> None:
    """`detect` is the question alone."""
    np.save(tmp_path / "a.npy", np.ones(2))
    assert codecs.detect(str(tmp_path / "a.npy")) == "npy"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x93NUMPY\x02\x00ab", "truncated: no header"),
        (b"\x93NUMPY\x03\x00\x02\0\0\0\xff\xff", "the header is not UTF-8"),
    ],
)
def test_header_of_an_array_that_is_none(data: bytes, message: str, tmp_path: Path) -> None:
    """A header of a later version is held to the rules of its version."""
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(InputError, match=message):
        codecs.read(str(tmp_path / "a.npy"))


def test_bytearray_of_old_protocols_is_read() -> None:
    """Protocol 2 writes a bytearray as latin-1 text."""
    data = pickle.dumps(bytearray(b"\xe9b"), 2)
    assert Unpickler(HeldBytes(data, "x"), 0, len(data), COMMON).load() == "éb"


def test_reading_back_tells_every_difference() -> None:
    """Names, dtypes, shapes and bytes: all of it is told, not the first alone."""
    written = StateDict.of({"a": np.ones(2), "b": np.ones(2), "c": np.ones(3)})
    found = {"b": LazyTensor.of(np.ones(3)), "c": written["c"], "d": written["a"]}
    problems = differences(written, found)
    assert problems == ["missing: a", "not expected: d", "b is float64 [3], float64 [2] expected"]
    same = {"c": written["c"]}
    assert differences(same, same, {"c": "x"}, {"c": "x"}) == []
    assert differences(same, same, {"c": "x"}, {"c": "y"}) == [
        "bytes differ from what was written: c"
    ]


@pytest.mark.parametrize(
    ("note", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is not a table of names"),
        ('{"a": 1}', "is not a table of names"),
    ],
)
def test_note_of_ties_that_is_none(note: str, message: str, tmp_path: Path) -> None:
    """A note of tied tensors that another program has spoilt is refused."""
    with pytest.raises(InputError, match=message):
        shared_tensors.restore({}, note, "x")


def test_note_of_ties_is_believed_as_far_as_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is gone is left out, what differs is told, a note has a limit."""
    state = {"a": LazyTensor.of(np.ones(2)), "b": LazyTensor.of(np.ones(2, np.float32))}
    assert shared_tensors.restore(state, '{"gone": "a", "b": "gone"}', "x") == ()
    (told,) = shared_tensors.restore(state, '{"b": "a"}', "x")
    assert "not any more: b" in told
    monkeypatch.setattr(shared_tensors, "_LONGEST_NOTE", 10)
    assert shared_tensors.restore(state, '{"b": "a"}', "x") == (told,)
    monkeypatch.setattr(shared_tensors, "_LONGEST_NOTE", 9)
    with pytest.raises(InputError, match="a note of shared tensors of 10 characters"):
        shared_tensors.restore(state, '{"b": "a"}', "x")


def test_nothing_is_no_output(tmp_path: Path) -> None:
    """A state dict without tensors is not written."""
    with pytest.raises(UsageError, match=r"x\.pth: there is no tensor to write"):
        codecs.write(StateDict({}), str(tmp_path / "x.pth"), "torch")


def test_tied_tensors_are_checked_with_their_first(tmp_path: Path) -> None:
    """A tie is written under both names and held to one digest; the outcome goes into JSON."""
    tied = LazyTensor.of(np.ones(3))
    tied.tie = "t"
    for name, format in (("a.safetensors", "safetensors"), ("a.pth", "torch")):
        target = tmp_path / name
        codecs.write(StateDict({"a": tied, "b": tied}), str(target), format, metadata={})
        found = check.check(target).as_dict()
        assert found == {"ok": True, "tensors": 2, "sources": {}, "problems": []}


def test_record_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record of provenance that is far too long is not read."""
    codecs.write(StateDict.of({"a": np.ones(3)}), str(tmp_path / "a.pth"), "torch", metadata={})
    monkeypatch.setattr(sidecar, "_LARGEST_RECORD", 9)
    with pytest.raises(InputError, match=r"has \d+ bytes; 9 is the limit"):
        check.check(tmp_path / "a.pth")


def test_old_format_is_not_written(tmp_path: Path) -> None:
    """What is read and not written says so."""
    with pytest.raises(UsageError, match=r"from before 1\.6 is read and not written"):
        codecs.write(StateDict.of({"w": np.ones(2)}), str(tmp_path / "a"), "torch-legacy")


def test_prefix_of_a_flat_format_is_taken_off(tmp_path: Path) -> None:
    """A wrapper's prefix comes off where a format cannot nest, too, and is noted."""
    state = StateDict.of({"module.w": np.ones(2), "module.b": np.ones(1)})
    codecs.write(state, str(tmp_path / "a.npz"), "npz")
    found = codecs.read(str(tmp_path / "a.npz"))
    assert list(found) == ["w", "b"]
    assert found.origin is not None
    assert found.origin.prefix == "module."


def test_bytearray_with_its_encoding_is_read() -> None:
    """Python 3 before 3.8 wrote a bytearray as a text and the name of its encoding."""
    data = b"\x80\x02c__builtin__\nbytearray\nX\2\0\0\0\xc3\xa9X\7\0\0\0latin-1\x86R."
    assert Unpickler(HeldBytes(data, "x"), 0, len(data), COMMON).load() == "é"


def test_named_tensor_is_no_bare_array(tmp_path: Path) -> None:
    """A `.npy` file would lose the name."""
    with pytest.raises(UsageError, match=r"a \.npy file has no place for the name w: write \.npz"):
        codecs.write(StateDict.of({"w": np.ones(2)}), str(tmp_path / "a.npy"), "npy")


def test_checksum_of_a_deflated_array_is_compared(tmp_path: Path) -> None:
    """An array that inflates to other bytes than its checksum says is refused."""
    path = tmp_path / "a.npz"
    np.savez_compressed(path, w=np.arange(1000.0))
    with zipfile.ZipFile(path) as archive:
        crc = struct.pack("<I", archive.infolist()[0].CRC)
    data = path.read_bytes()
    assert data.count(crc) >= 2
    path.write_bytes(data.replace(crc, b"\1\2\3\4"))
    with pytest.raises(InputError, match=r"w\.npy is damaged: its checksum differs"):
        list(codecs.read(str(path))["w"].blocks())
    with pytest.raises(InputError, match=r"w\.npy is damaged: its checksum differs"):
        codecs.read(str(path))["w"].read()
    path.write_bytes(data.replace(crc, bytes(4)))  # None was computed.
    tensor = codecs.read(str(path))["w"]
    assert b"".join(tensor.blocks()) == tensor.read().tobytes() == np.arange(1000.0).tobytes()


def test_output_path_that_is_none(tmp_path: Path) -> None:
    """A path that no file can have is refused before anything is made."""
    for path in (f"{tmp_path}/a\0b", f"{tmp_path}/{'x' * 300}"):
        with pytest.raises((UsageError, SystemFault), match="cannot be written"):
            atomic_output.publish(path, [b"new"])
    assert list(tmp_path.iterdir()) == []


def test_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the new name comes by a rename; what came meanwhile still stays."""
    monkeypatch.setattr(os, "link", _failing(errno.EPERM))
    path = tmp_path / "a"
    atomic_output.publish(path, [b"new"])
    assert path.read_bytes() == b"new"

    def late() -> bytes:
        (tmp_path / "b").write_bytes(b"old")
        return b"new"

    with pytest.raises(UsageError, match="came into being meanwhile"):
        atomic_output.publish(tmp_path / "b", [Late(3, late, last=True)])
    assert (tmp_path / "b").read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


def test_folder_that_cannot_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without that call is let be; a fault says what may be lost."""
    monkeypatch.setattr(os, "fsync", _failing(errno.EINVAL))
    atomic_output.sync_folder(str(tmp_path), "x")
    monkeypatch.setattr(os, "fsync", _failing(errno.EIO))
    with pytest.raises(SystemFault, match="x: is written, but may not survive a power cut"):
        atomic_output.sync_folder(str(tmp_path), "x")


def test_folder_that_cannot_be_listed_keeps_what_is_in_it(tmp_path: Path) -> None:
    """Stale files are looked for where that is possible."""
    assert atomic_output.remove_stale(str(tmp_path / "none" / "x")) == []


def test_array_tells_how_many_bytes_are_there(tmp_path: Path) -> None:
    """What is missing or too much is told by both numbers; bfloat16 has no place in the format."""
    path = tmp_path / "a.npy"
    np.save(path, np.ones(4))
    data = path.read_bytes()
    for changed, message in (
        (data[:-3], r"truncated: float64 \[4\] takes 32 bytes, there are 29"),
        (data + b"xy", r"float64 \[4\] takes 32 bytes, there are 34"),
    ):
        path.write_bytes(changed)
        with pytest.raises(InputError, match=message):
            codecs.read(str(path))
    state = StateDict.of({"": np.ones(2, ml_dtypes.bfloat16)})
    with pytest.raises(UsageError, match="NumPy has no bfloat16"):
        codecs.write(state, str(tmp_path / "b.npy"), "npy")


def test_ties_are_equal_to_their_last_byte() -> None:
    """Tensors whose first blocks agree and whose last do not are not tied again."""
    one = np.zeros(BLOCK + 8, np.uint8)
    other = one.copy()
    other[-1] = 1
    left, right = LazyTensor.of(one), LazyTensor.of(other)
    assert shared_tensors.equal(left, LazyTensor.of(one.copy()))
    assert not shared_tensors.equal(left, right)


def test_ties_are_of_one_dtype_and_one_shape() -> None:
    """The same bytes taken as something else are another tensor."""
    made = np.zeros((2, 3), np.float32)
    assert shared_tensors.equal(LazyTensor.of(made), LazyTensor.of(made.copy()))
    for other in (made.reshape(3, 2), made.view(np.int32)):
        assert not shared_tensors.equal(LazyTensor.of(made), LazyTensor.of(other))


def test_a_note_of_ties_with_one_odd_entry_is_refused() -> None:
    """Every entry of the note must be a name, not just one of them."""
    tensors = {"a": LazyTensor.of(np.zeros(1)), "b": LazyTensor.of(np.zeros(1))}
    with pytest.raises(InputError, match="not a table of names"):
        shared_tensors.restore(tensors, '{"a": "b", "c": 1}', "x.safetensors")


def test_sizes_over_32_bits_have_the_long_form_alone() -> None:
    """A descriptor whose sizes do not both fit 32 bits has no short form."""
    assert [len(form) for form in directory._sizes(5, 7)] == [8, 16]
    assert [len(form) for form in directory._sizes(5, 1 << 33)] == [16]
    assert [len(form) for form in directory._sizes(1 << 33, 5)] == [16]


@pytest.mark.parametrize("byte", [0x41, 0xE9])
def test_text_of_one_or_two_bytes_a_character_is_an_array(byte: int, tmp_path: Path) -> None:
    """Old pickles write an array as latin-1 text: all of ASCII, or none of it, is at the edges."""
    array = np.full(3 << 20, byte, np.uint8)
    path = tmp_path / "a.pdparams"
    path.write_bytes(pickle.dumps({"w": array}, protocol=2))
    assert codecs.read(str(path))["w"].read().tobytes() == array.tobytes()
