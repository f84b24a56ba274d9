"""torch's zip: byte order, members, checksums, deflated and shared storages."""

from __future__ import annotations

import io
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from porter import codecs
from porter.codecs.torch import zip_file
from porter.codecs.zip.members import Member
from porter.errors import InputError
from porter.storage.input_file import InputFile
from porter.tensors.state_dict import StateDict
from tests.codecs.torch.torch_files import (
    BASE,
    TORCH_DTYPES,
    bits,
    rewritten,
    same,
    saved,
)


def test_big_endian_file_is_swapped(tmp_path: Path) -> None:
    """A file of a big-endian machine gives the same values, complex halves each on their own."""
    source = {name: bits(dtype, 3, 4) for name, dtype in TORCH_DTYPES.items()}
    path = saved(source, tmp_path / "a.pth")
    widths = {str(i): dtype.itemsize for i, dtype in enumerate(TORCH_DTYPES.values())}
    halves = {str(i) for i, name in enumerate(TORCH_DTYPES) if "complex" in name}

    def swap(name: str, content: bytes) -> bytes:
        if name == "byteorder":
            return b"big"
        key = name.removeprefix("data/")
        if key not in widths:
            return content
        width = widths[key] // (2 if key in halves else 1)
        return np.frombuffer(content, f"u{width}").byteswap().tobytes()

    Path(path).write_bytes(rewritten(Path(path).read_bytes(), swap))
    state = codecs.read(path)
    assert all(same(state[name], tensor) for name, tensor in source.items())


STRUCTURE: dict[str, tuple[Callable[[str, bytes], bytes | None], str]] = {
    "storage short": (
        lambda n, c: c[:-1] if n == "data/0" else c,
        "has 95 bytes, data.pkl says 96",
    ),
    "storage long": (lambda n, c: c + b"!" if n == "data/0" else c, "has 97 bytes"),
    "storage missing": (lambda n, c: None if n == "data/0" else c, "no record data/0"),
    "pickle missing": (lambda n, c: None if n == "data.pkl" else c, "no data.pkl"),
    "pickle goes on": (lambda n, c: c + b"N." if n == "data.pkl" else c, "goes on after its end"),
    "order unknown": (lambda n, c: b"middle" if n == "byteorder" else c, "neither little nor big"),
    "order endless": (lambda n, c: b"big" * 99 if n == "byteorder" else c, "neither little nor"),
    "view moved": (
        lambda n, c: c.replace(b"QK\0K\x04", b"QK\x01K\x04") if n == "data.pkl" else c,
        "reaches to byte 100 of a storage of 96",
    ),
    "rank": (
        lambda n, c: c.replace(b"K\x06K\x01\x86", b"K\x06\x85") if n == "data.pkl" else c,
        "differ in length",
    ),
}


@pytest.mark.parametrize("kind", STRUCTURE)
def test_inconsistent_archive_is_refused(kind: str, tmp_path: Path) -> None:
    """Records and pickle that do not fit each other are refused."""
    change, message = STRUCTURE[kind]
    path = saved({"w": BASE}, tmp_path / "a.pth")
    before = Path(path).read_bytes()
    after = rewritten(before, change)
    assert after != rewritten(before, lambda _, content: content)
    Path(path).write_bytes(after)
    with pytest.raises(InputError, match=message):
        codecs.read(path)


def test_member_that_does_not_belong_is_refused(tmp_path: Path) -> None:
    """Nothing may hide in an archive: other members, other roots, records nobody uses."""
    path = saved({"w": BASE}, tmp_path / "a.pth")
    good = Path(path).read_bytes()
    for name, message in (
        ("a/extra.pkl", "no torch checkpoint has: a/extra.pkl"),
        ("other/x", "several roots"),
        ("a/data/7", "no tensor refers to a/data/7"),
        ("a/code/x.py", "TorchScript"),
        ("a/constants.pkl", "TorchScript"),
        ("a/DATA.pkl", "differ by case only"),
    ):
        buffer = io.BytesIO(rewritten(good, lambda _, content: content))
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.writestr(name, b"1234")
        Path(path).write_bytes(buffer.getvalue())
        with pytest.raises(InputError, match=message):
            codecs.read(path)


def test_pickle_in_a_folder_below_is_none(tmp_path: Path) -> None:
    """`data.pkl` stands in the archive's one folder, not deeper."""
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/b/data.pkl", b"\x80\x02}.")
    with pytest.raises(InputError, match=r"no torch checkpoint: it has no data\.pkl"):
        codecs.read(str(path))


def deflated(path: Path) -> bytes:
    """Return a zip packed again."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for item in old.infolist():
            new.writestr(item.filename, old.read(item.filename))
    return buffer.getvalue()


def test_deflated_storages_are_inflated(tmp_path: Path) -> None:
    """An archive packed again by hand is read, views of its storages too."""
    source = {"w": BASE, "v": BASE[1:3], "t": BASE.t(), "o": BASE[:, ::2]}
    path = Path(saved(source, tmp_path / "a.pth"))
    path.write_bytes(deflated(path))
    state = codecs.read(str(path))
    assert all(same(state[name], tensor) for name, tensor in source.items())
    assert all(tensor.extent is None for tensor in state.values())


def test_inflating_again_and_again_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many tensors in one deflated storage would inflate it as often: that has a limit."""
    monkeypatch.setattr(zip_file, "_FREE", 0)
    zeros = torch.zeros(1 << 20)
    path = Path(saved({str(i): zeros[i : i + 1] for i in range(200)}, tmp_path / "a.pth"))
    path.write_bytes(deflated(path))
    with pytest.raises(InputError, match="many tensors share deflated records"):
        codecs.read(str(path))


def test_first_view_of_a_deflated_record_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every further one counts as the whole record, up to the limit."""
    monkeypatch.setattr(zip_file, "EXPANSION", 0)
    zeros = torch.zeros(1000)
    for views, again in ((1, 0), (2, 4000), (3, 8000)):
        path = Path(saved({str(i): zeros[i : i + 9] for i in range(views)}, tmp_path / "a.pth"))
        path.write_bytes(deflated(path))
        monkeypatch.setattr(zip_file, "_FREE", again)
        assert len(codecs.read(str(path))) == views
        monkeypatch.setattr(zip_file, "_FREE", again - 1)
        with pytest.raises(InputError, match="many tensors share deflated records"):
            codecs.read(str(path))


def test_damage_behind_a_view_is_found(tmp_path: Path) -> None:
    """A checksum is of a whole record: it is compared though a part alone is read."""
    path = Path(saved({"v": BASE[:2]}, tmp_path / "a.pth"))
    origin = codecs.read(str(path)).origin
    assert origin is not None
    assert origin.notes == ()
    whole = BASE.numpy().tobytes()
    data = path.read_bytes()
    assert data.count(whole) == 1
    path.write_bytes(data.replace(whole, whole[:-1] + b"!"))
    with pytest.raises(InputError, match="its checksum differs"):
        codecs.read(str(path))["v"].read()
    with pytest.raises(InputError, match="its checksum differs"):
        list(codecs.read(str(path))["v"].blocks())


def test_further_views_may_fill_the_file_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A longer file may be inflated for longer."""
    monkeypatch.setattr(zip_file, "EXPANSION", 1)
    monkeypatch.setattr(zip_file, "_FREE", 0)
    zeros = torch.zeros(10)
    path = Path(saved({"a": zeros, "b": zeros[1:]}, tmp_path / "a.pth"))
    path.write_bytes(deflated(path))
    assert len(codecs.read(str(path))) == 2


def test_views_of_a_stored_record_are_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is inflated for them, and a stored pickle is not held."""
    for name, most in (("EXPANSION", 0), ("_FREE", 0), ("_LARGEST_HELD", 0)):
        monkeypatch.setattr(zip_file, name, most)
    path = saved({str(i): BASE[i:] for i in range(3)}, tmp_path / "a.pth")
    assert len(codecs.read(path)) == 3


def test_pickle_of_the_limit_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deflated pickle as long as the limit, and no longer."""
    path = Path(saved({"w": BASE}, tmp_path / "a.pth"))
    with zipfile.ZipFile(path) as archive:
        size = len(archive.read("a/data.pkl"))
    path.write_bytes(deflated(path))
    monkeypatch.setattr(zip_file, "_LARGEST_HELD", size)
    assert list(codecs.read(str(path))) == ["w"]
    monkeypatch.setattr(zip_file, "_LARGEST_HELD", size - 1)
    with pytest.raises(InputError, match=rf"data\.pkl is deflated and has {size} bytes"):
        codecs.read(str(path))


def test_byte_order_that_is_long_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused by its length: a deflated one could be of any."""
    path = Path(saved({"w": BASE}, tmp_path / "a.pth"))
    data = path.read_bytes()
    taken: list[str] = []
    read = Member.read

    def noted(member: Member) -> bytes:
        taken.append(member.name.rpartition("/")[2])
        return read(member)

    monkeypatch.setattr(Member, "read", noted)
    for length in (15, 16, 17):
        order = b"x" * length
        path.write_bytes(rewritten(data, lambda n, c, o=order: o if n == "byteorder" else c))  # type: ignore[misc]
        taken.clear()
        with pytest.raises(InputError, match="the byte order is neither little nor big"):
            codecs.read(str(path))
        assert ("byteorder" in taken) is (length < 16)


def test_missing_checksums_are_said(tmp_path: Path) -> None:
    """A file saved without checksums is read, with a note that damage cannot be seen."""
    torch.serialization.set_crc32_options(False)
    try:
        path = saved({"w": BASE}, tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    state = codecs.read(path)
    assert same(state["w"], BASE)
    assert state.origin is not None
    (note,) = state.origin.notes
    assert re.fullmatch(r"(\d+) of \1 records carry no checksum: damage cannot be seen\.", note)
    state = codecs.read(saved({"w": BASE}, tmp_path / "b.pth"))
    assert state.origin is not None
    assert state.origin.notes == ()


@pytest.mark.parametrize("kind", ["whole", "part", "strided"])
def test_flipped_bit_in_a_weight_is_found(kind: str, tmp_path: Path) -> None:
    """One flipped bit in a storage is found, whatever part of it is read."""
    store = torch.arange(50_000, dtype=torch.int32)
    tensor = {"whole": store, "part": store[10:20], "strided": store.reshape(200, 250)[:, 3]}[kind]
    path = Path(saved({"w": tensor}, tmp_path / "a.pth"))
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack("<3i", 40_000, 40_001, 40_002))
    data[at] ^= 1
    path.write_bytes(data)
    state = codecs.read(str(path))
    with pytest.raises(InputError, match="checksum differs"):
        for _ in state["w"].blocks(1 << 12):
            pass


def test_every_flipped_bit_is_found_or_harmless(tmp_path: Path) -> None:
    """With any bit of a small file flipped, it is refused or gives the same tensors."""
    path = tmp_path / "a.pth"
    codecs.write(StateDict.of({"w": np.arange(6, dtype=np.int16)}), str(path), "torch")
    data = path.read_bytes()
    step = max(1, len(data) * 8 // 1500)
    for position in range(0, len(data) * 8, step):
        changed = bytearray(data)
        changed[position // 8] ^= 1 << position % 8
        path.write_bytes(changed)
        try:
            found = zip_file.read(InputFile(path)).arrays()
        except InputError:
            continue
        assert list(found) == ["w"]
        assert found["w"].tobytes() == np.arange(6, dtype=np.int16).tobytes()


def test_expanded_views_are_bounded(tmp_path: Path) -> None:
    """A view that fills far more than the file is refused; an honest one is not."""
    path = saved({"w": torch.zeros(1).expand(1 << 12)}, tmp_path / "a.pth")
    assert codecs.read(path)["w"].read().nbytes == 1 << 14
    path = saved({"w": torch.zeros(1).expand(1 << 20, 1 << 20)}, tmp_path / "b.pth")
    with pytest.raises(InputError, match="bytes of tensors out of a file of"):
        codecs.read(path)


def test_storages_that_disagree_are_refused() -> None:
    """A storage key stands for one dtype and one length."""
    data = b"".join(
        [
            b"\x80\x02((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\1tQ",
            b"(X\7\0\0\0storagectorch\nIntStorage\nX\1\0\0\x000X\3\0\0\0cpuK\1tQt.",
        ]
    )
    from porter.codecs.pickle.reading import Unpickler
    from porter.codecs.pickle.values import HeldBytes
    from porter.codecs.torch.names import TORCH
    from porter.codecs.torch.storages import Storages

    with pytest.raises(InputError, match="storage 0 is described in two ways"):
        Unpickler(HeldBytes(data, "x"), 0, len(data), TORCH, persistent=Storages().load).load()
