"""A single flipped bit is found by `porter.codecs.check`, in every format and region."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from porter import codecs
from porter.codecs import check
from porter.codecs.zip.directory import CENTRAL_MAGIC, END
from porter.errors import InputError
from porter.onnx.export.write import Options, export
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded

ARRAYS = {"a": np.arange(40.0).reshape(5, 8), "b": np.ones(3, np.float16), "e": np.zeros(0)}
FORMATS = {
    "m.safetensors": "safetensors", "m.pth": "torch", "m.pdparams": "paddle", "m.npz": "npz",
    "m.npy": "npy",
}  # fmt: skip
METHODS = ("xxh3", "sha256")
REGIONS = {
    "m.safetensors": {"length", "header", "tensors"},
    "m.pth": {"members", "directory", "end"},
    "m.npz": {"members", "directory", "end"},
    "m.pdparams": {"pickle"},
    "m.npy": {"header", "tensors"},
}
TRIES = 150
"""Bytes of a region in which a bit is flipped, if it has as many."""


def regions(path: Path) -> dict[str, range]:
    """Return the parts of a file, which together are all of it."""
    data = path.read_bytes()
    size = len(data)
    if path.suffix == ".safetensors":
        start = 8 + struct.unpack("<Q", data[:8])[0]
        return {"length": range(8), "header": range(8, start), "tensors": range(start, size)}
    if path.suffix in (".pth", ".bin", ".npz"):
        start, end = data.index(CENTRAL_MAGIC), size - END.size
        parts = {"members": range(start), "directory": range(start, end)}
        return {**parts, "end": range(end, size)}
    if path.suffix == ".npy":
        return {"header": range(128), "tensors": range(128, size)}
    return {"pickle" if path.suffix == ".pdparams" else "text": range(size)}


def missed(output: Path, path: Path, where: range) -> Iterator[int]:
    """Yield the positions in a part of `path` at which a flipped bit of `output` is not found."""
    good = path.read_bytes()
    chance = random.Random(0)
    for position in chance.sample(where, min(TRIES, len(where))):
        with path.open("r+b") as file:
            file.seek(position)
            file.write(bytes([good[position] ^ 1 << chance.randrange(8)]))
        try:
            if check.check(output).ok:
                yield position
        except InputError:
            pass  # Some damage makes a file that cannot be read at all.
        with path.open("r+b") as file:
            file.seek(position)
            file.write(good[position : position + 1])
    assert check.check(output).ok


def written(folder: Path, name: str, method: str, **options: object) -> Path:
    """Write arrays with their provenance; return the output."""
    arrays = {"": ARRAYS["a"]} if name == "m.npy" else ARRAYS
    np.savez(folder / "source.npz", **arrays)
    state = codecs.read(str(folder / "source.npz"))
    done = codecs.write(state, str(folder / name), FORMATS[name], metadata={"porter.x": "y"},
                        digest=method, **options)  # type: ignore[arg-type]  # fmt: skip
    return Path(done.path)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FORMATS)
def test_flip_in_every_region_is_found(name: str, method: str, tmp_path: Path) -> None:
    """Header, directory, pickle and tensors: no bit of the file turns unseen."""
    output = written(tmp_path, name, method)
    parts = regions(output)
    assert set(parts) == REGIONS[name]
    for part, where in parts.items():
        assert list(missed(output, output, where)) == [], part


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FORMATS)
def test_flip_in_the_record_is_found(name: str, method: str, tmp_path: Path) -> None:
    """Nor does one of the record that stands beside the file."""
    output = written(tmp_path, name, method)
    beside = output.with_name(f"{output.name}.porter.json")
    assert list(missed(output, beside, range(beside.stat().st_size))) == []


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["m.safetensors", "m.pth"])
def test_flip_in_shards_and_index_is_found(name: str, method: str, tmp_path: Path) -> None:
    """Each shard, the index and the record: all files of the output."""
    output = written(tmp_path, name, method, max_shard_size=300)
    files = [path for path in tmp_path.iterdir() if path.name != "source.npz"]
    assert len(files) == 4
    for path in files:
        for part, where in regions(path).items():
            assert list(missed(output, path, where)) == [], (path.name, part)


@pytest.mark.parametrize(("external", "method"), [(False, "xxh3"), (True, "sha256")])
def test_flip_in_an_onnx_model_is_found(
    external: bool, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metadata, graph, weights, and what pads the file of external data."""
    monkeypatch.setattr("tests.storage.test_flips.TRIES", 6)
    variant, output = find("pvtv2-b0"), tmp_path / "m.onnx"
    export(variant, seeded(variant, num_classes=3), output, num_classes=3, image_size=224,
           options=Options(external_data=external), metadata={"a": "b"}, digest=method)  # fmt: skip
    extents = [t.extent for t in codecs.read(str(output)).values() if t.extent is not None]
    files = {path: path.stat().st_size for path in tmp_path.iterdir()}
    assert len(files) == 2 + external
    for path, size in files.items():
        runs = sorted((e.offset, e.nbytes) for e in extents if e.file.path == str(path))
        weights = [
            range(offset, offset + nbytes) for offset, nbytes in runs[:: len(runs) // 3 or 1]
        ]
        ends = [0, *(offset + nbytes for offset, nbytes in runs)]
        starts = [*(offset for offset, _ in runs), size]
        frame = [range(*pair) for pair in zip(ends, starts, strict=True) if pair[0] < pair[1]]
        longest = sorted(frame, key=len)[-3:]
        assert longest
        for where in (*weights, *longest):
            assert list(missed(output, path, where)) == [], (path.name, where)
