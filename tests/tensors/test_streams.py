"""Tensors that no file has as they are: the right bytes, and never all of them in memory."""

from __future__ import annotations

import pickle
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from porter import codecs
from porter.codecs.torch import views
from porter.errors import InputError
from porter.tensors.streams import slabs, span, whole_elements
from tests.codecs.torch.torch_files import raw, same

NBYTES = 24 << 20
LIMIT = 1 << 20
HELD = 8 << 20
"""What may be allocated while a tensor of `NBYTES` is read in blocks of `LIMIT`."""


def numbers(dtype: str = "<f4", nbytes: int = NBYTES) -> Any:
    """Return a matrix of random bits, some of which deflate."""
    data = np.random.default_rng(0).integers(0, 16, nbytes, np.uint8)
    return data.view(dtype).reshape(-1, 1024)


def deflated(path: Path, members: dict[str, bytes]) -> None:
    """Write a zip that is deflated."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def torch_file(tensor: torch.Tensor, path: Path, *, big: bool = False, pack: bool = False) -> None:
    """Write a checkpoint of one tensor, as of another machine or packed again when asked."""
    torch.save({"w": tensor}, path)
    if big or pack:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        if big:
            order = next(name for name in members if name.endswith("/byteorder"))
            members[order] = b"big"
        if pack:
            deflated(path, members)
            return
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)


def conjugate(path: Path) -> Any:
    tensor = torch.from_numpy(numbers("<c8"))
    torch_file(tensor.conj(), path)
    return tensor.conj().resolve_conj().numpy()


def conjugate_transpose(path: Path) -> Any:
    tensor = torch.from_numpy(numbers("<c8")).conj().T
    torch_file(tensor, path)
    return tensor.resolve_conj().contiguous().numpy()


def big_torch(path: Path) -> Any:
    array = numbers("<f8")
    torch_file(torch.from_numpy(array), path, big=True)
    return array.byteswap()


def every_other_column(path: Path) -> Any:
    array = numbers(nbytes=2 * NBYTES)
    torch_file(torch.from_numpy(array)[:, ::2], path)
    return array[:, ::2]


def rows_of_parts(path: Path) -> Any:
    array = numbers(nbytes=2 * NBYTES).reshape(2, -1, 4, 256)
    torch_file(torch.from_numpy(array)[:, :, ::2], path)
    return array[:, :, ::2]


def transposed_with_gaps(path: Path) -> Any:
    array = numbers(nbytes=4 * NBYTES)
    torch_file(torch.from_numpy(array)[::2, ::2].T, path)
    return array[::2, ::2].T


def deflated_torch(path: Path) -> Any:
    array = numbers()
    torch_file(torch.from_numpy(array), path, pack=True)
    return array


def deflated_part(path: Path) -> Any:
    array = numbers(nbytes=NBYTES + (1 << 20))
    torch_file(torch.from_numpy(array)[100:-100], path, pack=True)
    return array[100:-100]


def deflated_big_torch(path: Path) -> Any:
    array = numbers("<f8")
    torch_file(torch.from_numpy(array), path, big=True, pack=True)
    return array.byteswap()


def big_npy(path: Path) -> Any:
    array = numbers(">f4")
    np.save(path, array)
    return array.astype("<f4")


def fortran_npy(path: Path) -> Any:
    array = numbers()
    np.save(path, np.asfortranarray(array))
    return array


def big_fortran_npy(path: Path) -> Any:
    array = numbers(">f4")
    np.save(path, np.asfortranarray(array))
    return array.astype("<f4")


def fortran_npz(path: Path) -> Any:
    array = numbers("<f2")
    np.savez(path, w=np.asfortranarray(array))
    return array


def deflated_npz(path: Path) -> Any:
    array = numbers()
    np.savez_compressed(path, w=array)
    return array


def deflated_big_npz(path: Path) -> Any:
    array = numbers(">c16")
    np.savez_compressed(path, w=array)
    return array.astype("<c16")


def pickled(value: Any, path: Path, protocol: int) -> None:
    """Pickle by the standard library, which is what Paddle does."""
    path.write_bytes(pickle.dumps(value, protocol))


def text_paddle(path: Path) -> Any:
    array = numbers()
    pickled({"w": array}, path, 2)
    return array


def big_text_paddle(path: Path) -> Any:
    array = numbers(">f4")
    pickled({"w": array}, path, 2)
    return array.astype("<f4")


def big_paddle(path: Path) -> Any:
    array = numbers(">f8")
    pickled({"w": array}, path, 4)
    return array.astype("<f8")


def bfloat16_text_paddle(path: Path) -> Any:
    array = numbers("<u2")
    pickled({"w": array}, path, 2)
    return array


def sliced_paddle(path: Path) -> Any:
    array = numbers()
    parts = np.array_split(array.reshape(-1), 3)
    names = [f"w@@.{i}" for i in range(3)]
    table = {"w": {"OriginShape": array.shape, "slices": names}}
    pickled({**dict(zip(names, parts, strict=True)), "UnpackBigParamInfor@@": table}, path, 3)
    return array


KINDS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "torch conjugate": ("pth", conjugate),
    "torch conjugate transpose": ("pth", conjugate_transpose),
    "torch big-endian": ("pth", big_torch),
    "torch every other column": ("pth", every_other_column),
    "torch parts of rows": ("pth", rows_of_parts),
    "torch transposed with gaps": ("pth", transposed_with_gaps),
    "torch deflated": ("pth", deflated_torch),
    "torch part of a deflated": ("pth", deflated_part),
    "torch deflated big-endian": ("pth", deflated_big_torch),
    "npy big-endian": ("npy", big_npy),
    "npy fortran": ("npy", fortran_npy),
    "npy big-endian fortran": ("npy", big_fortran_npy),
    "npz fortran": ("npz", fortran_npz),
    "npz deflated": ("npz", deflated_npz),
    "npz deflated big-endian": ("npz", deflated_big_npz),
    "paddle text": ("pdparams", text_paddle),
    "paddle text big-endian": ("pdparams", big_text_paddle),
    "paddle big-endian": ("pdparams", big_paddle),
    "paddle text bfloat16": ("pdparams", bfloat16_text_paddle),
    "paddle slices": ("pdparams", sliced_paddle),
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_tensor_is_held_whole(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes are those of the library that wrote them, and a few blocks are all that is held."""
    monkeypatch.setattr("porter.tensors.lazy.MOST_HELD", 2 << 20)
    monkeypatch.setattr(views, "MOST_HELD", 2 << 20)
    suffix, make = KINDS[kind]
    path = tmp_path / f"a.{suffix}"
    expected = np.ascontiguousarray(make(path))
    options: dict[str, Any] = {"uint16": "bfloat16"} if kind == "paddle text bfloat16" else {}
    (tensor,) = codecs.read(str(path), **options).values()
    assert tensor.shape == expected.shape
    assert tensor.held <= 2 << 20
    assert tensor.nbytes == NBYTES or kind == "torch part of a deflated"
    left = memoryview(expected.reshape(-1).view(np.uint8))
    tracemalloc.start()
    for block in tensor.blocks(LIMIT):
        assert block == left[: len(block)]
        left = left[len(block) :]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not left
    assert peak < HELD, peak
    assert np.asarray(tensor.read(), order="C").tobytes() == expected.tobytes()


def test_a_small_part_of_a_deflated_storage_is_written_without_the_rest(tmp_path: Path) -> None:
    """A record is inflated a block at a time, and what is not wanted of it is let go."""
    torch_file(torch.from_numpy(numbers())[4:6], tmp_path / "a.pth", pack=True)
    state = codecs.read(str(tmp_path / "a.pth"))
    tracemalloc.start()
    try:
        codecs.write(state, str(tmp_path / "b.safetensors"), "safetensors")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < NBYTES // 2
    np.testing.assert_array_equal(
        codecs.read(str(tmp_path / "b.safetensors"))["w"].read(), numbers()[4:6]
    )


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_slabs_cover_a_view_in_order(data: st.DataObject) -> None:
    """The parts of a view, one after the other, are the view, and none reaches farther than said.

    Where there are none, the last axis steps widest.
    """
    shape = tuple(data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=4)))
    strides = tuple(data.draw(st.sampled_from([0, 1, 2, 3, 8, 40])) for _ in shape)
    most = data.draw(st.integers(1, 100))
    memory = np.arange(span(shape, strides))

    def view(start: int, part: tuple[int, ...]) -> Any:
        steps = [8 * step for step in strides[len(shape) - len(part) :]]
        assert span(part, strides[len(shape) - len(part) :]) <= most
        return np.ndarray(part, memory.dtype, memory, 8 * start, steps).reshape(-1)

    found = slabs(shape, strides, most)
    if found is None:
        assert span(shape, strides) > most
        return
    expected = np.ndarray(shape, memory.dtype, memory, 0, [8 * s for s in strides]).reshape(-1)
    assert np.concatenate([view(*part) for part in found]).tolist() == expected.tolist()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_view_of_torch_is_read(data: st.DataObject) -> None:
    """Whatever may be held, and whether the storage was inflated: the elements are torch's."""
    shape = tuple(data.draw(st.lists(st.integers(0, 6), max_size=4)))
    strides = tuple(data.draw(st.sampled_from([0, 1, 2, 3, 7, 40])) for _ in shape)
    dtype = data.draw(st.sampled_from([torch.uint8, torch.bfloat16, torch.complex64]))
    size = span(shape, strides) + 3
    storage = torch.arange(size * torch.empty((), dtype=dtype).element_size()).to(torch.uint8)
    view = storage.view(dtype).as_strided(shape, strides, 2)
    view = view.conj() if dtype.is_complex and data.draw(st.booleans()) else view
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(views, "MOST_HELD", data.draw(st.sampled_from([8, 40, 1 << 20])))
        path = Path(folder, "a.pth")
        torch_file(view, path, pack=data.draw(st.booleans()))
        (tensor,) = codecs.read(str(path)).values()
        plain = torch.empty(shape, dtype=dtype).copy_(view)
        assert same(tensor, plain)
        assert b"".join(map(bytes, tensor.blocks(64))) == raw(plain)


@given(st.lists(st.binary(max_size=20)), st.sampled_from([1, 2, 8, 16]))
def test_blocks_are_cut_between_elements(blocks: list[bytes], width: int) -> None:
    """Whatever the blocks were, they are the same bytes and hold whole elements."""
    whole = b"".join(blocks)
    blocks.append(bytes(-len(whole) % width))
    found = [bytes(b) for b in whole_elements(iter(map(memoryview, blocks)), width)]
    assert b"".join(found) == b"".join(blocks)
    assert all(len(block) % width == 0 and block for block in found)


def test_damage_in_a_deflated_tensor_is_found_in_blocks_too(tmp_path: Path) -> None:
    """A checksum that differs is told when the last block was taken."""
    path = tmp_path / "a.pth"
    torch_file(torch.zeros(100), path, pack=True)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = next(i for i in archive.infolist() if i.filename.endswith("data/0"))
    crc = info.CRC.to_bytes(4, "little")
    for at in (data.index(crc), data.rindex(crc)):
        data[at] ^= 1
    path.write_bytes(data)
    (tensor,) = codecs.read(str(path)).values()
    with pytest.raises(InputError, match="checksum differs"):
        list(tensor.blocks())
