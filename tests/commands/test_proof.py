"""The weights are proven while the output is read back: each fault is seen, nothing read again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import porter
from porter import codecs
from porter.planning.plan import Plan
from porter.storage.input_file import InputFile
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict

TABLE = """
family = "plain"
[layers]
"a" = "linear"
"b" = "linear"
[dialects.port]
framework = "paddle"
"""
ARRAYS = {
    "a.weight": np.arange(200_000, dtype=np.float32).reshape(400, 500),
    "b.weight": np.arange(200_000, 400_000, dtype=np.float32).reshape(400, 500),
}
OUTPUTS = {
    "o.pdparams": "paddle:port", "o.safetensors": "safetensors:port", "o.npz": "numpy:port",
}  # fmt: skip


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table and a checkpoint of two Linears, both transposed by the conversion."""
    (tmp_path / "plain.toml").write_text(TABLE)
    codecs.write(StateDict.of(ARRAYS), str(tmp_path / "in.pth"), "torch")
    return tmp_path / "plain.toml"


def convert(table: Path, name: str = "o.pdparams", **options: Any) -> Any:
    folder = table.parent
    return porter.convert(
        str(table), folder / "in.pth", folder / name, from_="torch", to=OUTPUTS[name], **options
    )


def rolled(tensor: LazyTensor) -> LazyTensor:
    """Return a tensor whose elements are in other places."""
    return LazyTensor(tensor.dtype, tensor.shape, lambda: np.roll(tensor.read(), 1))


@pytest.mark.parametrize(
    ("name", "shards"),
    [*((name, None) for name in OUTPUTS), ("o.safetensors", 810_000)],
)
def test_sound_conversion_is_proven_by_digests(name: str, shards: int | None, table: Path) -> None:
    """What comes back has the digests of what was read, also of several files."""
    done = convert(table, name, max_shard_size=shards)
    assert done.ok
    assert done.weights.compared == 2
    assert done.written.returned.read == done.written.returned.back
    assert len(set(done.written.returned.read.values())) == 2


@pytest.mark.parametrize("way", ["write", "back"])
def test_fault_of_the_mapping_is_noticed_either_way(
    way: str, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One tensor that is mapped wrongly, there or back, fails the proof by its name."""
    real = getattr(Plan, way)

    def wrong(plan: Plan, state: Mapping[str, LazyTensor]) -> StateDict:
        found = real(plan, state)
        return StateDict({**found, "a.weight": rolled(found["a.weight"])}, found.origin)

    monkeypatch.setattr(Plan, way, wrong)
    done = convert(table)
    assert not done.ok
    assert done.weights.problems == ("a.weight has other values than the source",)


def test_one_bit_between_reading_and_writing_is_noticed(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte that the conversion reads otherwise than the digests do fails the proof."""
    real = Plan.write

    def flipped(plan: Plan, canonical: Mapping[str, LazyTensor]) -> StateDict:
        def read() -> np.ndarray:
            array = canonical["b.weight"].read().copy()
            array.view(np.uint8)[0, 0] ^= 1
            return array

        base = canonical["b.weight"]
        changed = LazyTensor(base.dtype, base.shape, read)
        return real(plan, {**canonical, "b.weight": changed})

    monkeypatch.setattr(Plan, "write", flipped)
    done = convert(table)
    assert done.weights.problems == ("b.weight has other values than the source",)


@pytest.mark.parametrize("option", ["read_back", "digests"])
def test_without_digests_source_and_output_are_read_again(option: str, table: Path) -> None:
    """The proof is made all the same."""
    done = convert(table, **{option: False})
    assert done.ok
    assert done.weights.compared == 2
    assert done.written.returned is None


def test_nothing_is_read_for_the_proof_alone(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Source: converted, and digested from the page cache; output: read back, and mapped back."""
    nbytes = {"in.pth": 0, "out": 0}
    real, real_into = InputFile.pread, InputFile.pread_into

    def count(file: InputFile, size: int) -> None:
        nbytes["in.pth" if file.path.endswith("in.pth") else "out"] += size

    def pread(file: InputFile, offset: int, size: int) -> bytes:
        count(file, size)
        return real(file, offset, size)

    def pread_into(file: InputFile, offset: int, buffer: memoryview) -> None:
        count(file, len(buffer))
        real_into(file, offset, buffer)

    monkeypatch.setattr(InputFile, "pread", pread)
    monkeypatch.setattr(InputFile, "pread_into", pread_into)
    done = convert(table)
    assert done.ok
    total = sum(array.nbytes for array in ARRAYS.values())
    assert nbytes["in.pth"] < 2.1 * total
    assert nbytes["out"] < 2.3 * total
