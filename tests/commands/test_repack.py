"""Every bad file through `repack`: refused in one line with nothing written, or kept to the bit."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from porter import codecs
from porter.commands.repack import format_of, repack
from porter.errors import InputError, PorterError, UsageError
from porter.tensors.state_dict import StateDict
from tests.badcases import BFLOAT16, Case, collect

CASES = collect()
REJECTED = [case for case in CASES if case.rejected]
KEPT = [case for case in CASES if not case.rejected]
REFUSED = {
    "torch-ok-name-long": "longer than 4096 bytes",
    "st-ok-no-tensors": "has no tensors",
}
"""Honest files that porter refuses all the same, and what it says."""

SECONDS = 5
MEMORY = 64 << 20
"""What a bad file may cost at most: the worst of them takes about a second, traced, and 14 MB."""


def read_independently(path: Path) -> dict[str, dict[str, Any]]:
    """Read a safetensors file without porter, in the form of the collection."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    found = {}
    for name, row in header.items():
        begin, end = (8 + length + offset for offset in row["data_offsets"])
        digest = hashlib.sha256(data[begin:end]).hexdigest()
        found[name] = {"dtype": row["dtype"], "shape": row["shape"], "sha256": digest}
    return found


def entries(folder: Path) -> list[str]:
    """Return what is in a folder, hidden files too."""
    return sorted(os.listdir(folder))


@pytest.mark.parametrize("case", REJECTED, ids=lambda case: case.name)
def test_bad_file_is_refused(case: Case, tmp_path: Path) -> None:
    """A bad file ends soon in one line that names it; nothing is held, written or run."""
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    target.mkdir()
    path = case.write(source)
    (target / "old.safetensors").write_bytes(b"old")
    begin = time.process_time()
    tracemalloc.start()
    with pytest.raises(PorterError) as caught:
        repack(path, target / "old.safetensors", force=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.process_time() - begin < SECONDS
    assert peak < MEMORY
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith(str(source))
    assert "\n" not in str(caught.value)
    assert entries(target) == ["old.safetensors"]
    assert (target / "old.safetensors").read_bytes() == b"old"
    assert case.marker is None or not case.marker.exists()


@pytest.mark.parametrize("case", KEPT, ids=lambda case: case.name)
def test_awkward_file_is_kept(case: Case, tmp_path: Path) -> None:
    """An honest file keeps dtype, shape and every byte, as a reader that is not ours sees it."""
    source = tmp_path / "in"
    source.mkdir()
    path = case.write(source)
    output = tmp_path / "out.safetensors"
    if case.name in REFUSED:
        assert case.may_refuse
        with pytest.raises(InputError, match=REFUSED[case.name]):
            repack(path, output)
        return
    expected = dict(case.tensors)
    if case.name == BFLOAT16:
        expected["w"] = {**expected["w"], "dtype": "BF16"}
    wide = [name for name, row in expected.items() if row["dtype"] == "C128"]
    if wide:
        with pytest.raises(UsageError, match="safetensors has no complex128"):
            repack(path, output)
        found = {n: described(t) for n, t in codecs.read(str(path), strip=False).items()}
    else:
        repack(path, output)
        found = read_independently(output)
    assert {name: found[name] for name in expected} == expected


def described(tensor: Any) -> dict[str, Any]:
    """Return dtype, shape and sha256 as the collection writes them."""
    digest = hashlib.sha256(b"".join(bytes(block) for block in tensor.blocks())).hexdigest()
    code = tensor.dtype.safetensors or "C128"
    return {"dtype": code, "shape": list(tensor.shape), "sha256": digest}


@pytest.mark.parametrize("name", ["torch-exec-reduce-os-mkdir", "st-duplicate-key-dtype", "fifo"])
def test_refusal_on_the_command_line(name: str, tmp_path: Path) -> None:
    """The command prints one line without a traceback and exits with 2."""
    (case,) = (case for case in CASES if case.name == name)
    path = case.write(tmp_path)
    before = entries(tmp_path)
    code = "from porter.cli import main; main()"
    command = [sys.executable, "-c", code, "repack", str(path), "-o", str(tmp_path / "o.pth")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr
    assert entries(tmp_path) == before


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "a.weight": rng.standard_normal((5, 7)).astype(np.float32),
        "a.bias": rng.standard_normal(7).astype(np.float16),
        "steps": np.array(12, np.int64),
        "empty": np.zeros((0, 3), np.float32),
    }


@pytest.mark.parametrize("first", ["x.safetensors", "x.pth", "x.pdparams", "x.npz"])
@pytest.mark.parametrize("second", ["y.safetensors", "y.pth", "y.pdparams", "y.npz"])
def test_there_and_back(
    first: str, second: str, arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """A→B→A gives the digests of A, whatever the containers."""
    start = tmp_path / f"start{Path(first).suffix}"
    codecs.write(StateDict.of(arrays), str(start), format_of(str(start)))
    one = repack(start, tmp_path / first)
    two = repack(tmp_path / first, tmp_path / second)
    three = repack(tmp_path / second, tmp_path / f"back{Path(first).suffix}")
    assert one.written.digests == two.written.digests == three.written.digests
    assert set(one.written.digests) == set(arrays)


def test_metadata_comes_through(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    """What a safetensors file says about itself is said by the next one too."""
    safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors", {"note": "é\n", "format": "np"})
    repack(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    origin = codecs.read(str(tmp_path / "b.safetensors")).origin
    assert origin is not None
    assert origin.metadata["note"] == "é\n"
    assert origin.metadata["format"] == "np"
    assert origin.metadata["porter.source"] == "a.safetensors"


def test_ties_survive_a_format_that_cannot_share(tmp_path: Path) -> None:
    """Tied torch tensors go to safetensors under all names and come back sharing memory."""
    shared = torch.randn(4, 3)
    torch.save({"a": shared, "b": shared, "c": torch.ones(4, 3)}, tmp_path / "a.pth")
    repack(tmp_path / "a.pth", tmp_path / "b.safetensors")
    assert set(safetensors.numpy.load_file(tmp_path / "b.safetensors")) == {"a", "b", "c"}
    repack(tmp_path / "b.safetensors", tmp_path / "c.pth")
    back = torch.load(tmp_path / "c.pth")
    assert back["a"].data_ptr() == back["b"].data_ptr() != back["c"].data_ptr()
    assert torch.equal(back["b"], shared)


def test_ties_of_an_archive_stand_in_its_record(tmp_path: Path) -> None:
    """A `.npz` cannot share nor say so: the record beside it does, as long as it is true."""
    shared = torch.randn(4, 3)
    torch.save({"a": shared, "b": shared, "c": torch.ones(4, 3)}, tmp_path / "a.pth")
    repack(tmp_path / "a.pth", tmp_path / "b.npz")
    repack(tmp_path / "b.npz", tmp_path / "c.pth")
    back = torch.load(tmp_path / "c.pth")
    assert back["a"].data_ptr() == back["b"].data_ptr() != back["c"].data_ptr()
    np.savez(tmp_path / "b.npz", a=shared.numpy(), b=shared.numpy() + 1)
    state = codecs.read(str(tmp_path / "b.npz"))
    assert state["a"].tie is None
    assert state.origin is not None
    assert "not any more: b" in state.origin.notes[0]
    record = tmp_path / "b.npz.porter.json"
    said = json.loads(record.read_text())
    for wrong in ({"b": 1}, ["b"], None):
        record.write_text(json.dumps({**said, "ties": wrong}))
        assert set(codecs.read(str(tmp_path / "b.npz"))) == {"a", "b"}


def test_broken_tie_is_said_and_not_made(tmp_path: Path) -> None:
    """A tie that another program has undone is reported, and no value is lost to it."""
    one, other = np.ones(3, np.float32), np.zeros(3, np.float32)
    note = {"porter.ties": '{"b":"a"}'}
    safetensors.numpy.save_file({"a": one, "b": other}, tmp_path / "a.safetensors", note)
    state = codecs.read(str(tmp_path / "a.safetensors"))
    assert state.origin is not None
    assert "not any more: b" in state.origin.notes[0]
    assert state["a"].tie is None
    assert np.array_equal(state["b"].read(), other)


def test_cast_reports_its_cost(tmp_path: Path) -> None:
    """A cast says its largest error and what overflowed; other types stay."""
    values = np.array([1.0, 1.0 + 2**-12, 1e6, np.nan, np.inf], np.float32)
    codecs.write(StateDict.of({"w": values, "n": np.arange(3)}), str(tmp_path / "a.npz"), "npz")
    done = repack(tmp_path / "a.npz", tmp_path / "b.safetensors", dtype="fp16")
    assert set(done.casts) == {"w"}
    assert done.casts["w"].overflows == 1
    assert done.casts["w"].max_error == 2**-12
    back = safetensors.numpy.load_file(tmp_path / "b.safetensors")
    with np.errstate(over="ignore"):
        assert np.array_equal(back["w"], values.astype(np.float16), equal_nan=True)
    assert back["n"].dtype == np.int64


def test_suffix_must_say_a_container(tmp_path: Path) -> None:
    """An output without a known suffix is refused, with the ways out."""
    with pytest.raises(UsageError, match=r"use --to"):
        repack(tmp_path / "a", tmp_path / "model.weights")


# In a process of its own: the limit on memory cannot be taken back.
_BOUNDED = """
import resource, sys
from porter import codecs
from porter.storage.read_back import digests_of
resource.setrlimit(resource.RLIMIT_AS, (700 << 20, 700 << 20))
digests_of(codecs.read(sys.argv[1]))
"""


def test_a_gigabyte_in_bounded_memory(tmp_path: Path) -> None:
    """A tensor of 1 GiB is read to its last byte by a process that may have less."""
    path = tmp_path / "a.safetensors"
    size = 1 << 30
    head = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head)
    os.truncate(path, 8 + len(head) + size)
    command = [sys.executable, "-c", _BOUNDED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr


def test_offsets_beyond_four_gigabytes(tmp_path: Path) -> None:
    """The last bytes of a tensor of over 4 GiB are where they are said to be."""
    (case,) = (case for case in collect("safetensors", big=True) if "4gb" in case.name)
    (tensor,) = codecs.read(str(case.write(tmp_path))).values()
    assert tensor.extent is not None
    assert tensor.nbytes > 4 << 30
    end = tensor.extent.offset + tensor.nbytes
    assert tensor.extent.file.pread(tensor.extent.offset, 4) == b"HEAD"
    assert tensor.extent.file.pread(end - 4, 4) == b"TAIL"


def test_names_keep_their_key_path_until_a_key_takes_it_off(tmp_path: Path) -> None:
    """A wrapped state dict keeps its names whole; the one that was asked for loses the path."""
    case = next(case for case in KEPT if case.name == "torch-ok-nested-with-extras")
    path = case.write(tmp_path)
    whole = repack(path, tmp_path / "whole.safetensors")
    assert list(whole.state) == ["model.w"]
    assert whole.origin.wrapper == "model"
    assert any("optimizer" in line for line in whole.origin.skipped)
    assert list(repack(path, tmp_path / "bare.safetensors", key="model").state) == ["w"]


def test_options_are_on_record_and_those_of_the_last_step_are_not(tmp_path: Path) -> None:
    """What was asked for is in the output's metadata; the next step speaks for itself."""
    array = np.arange(4, dtype=np.uint16)
    pickled = pickle.dumps({"model": {"w": array, "f": np.ones(2, np.float32)}}, 4)
    (tmp_path / "a.pdparams").write_bytes(pickled)
    one = tmp_path / "b.pdparams"
    repack(
        tmp_path / "a.pdparams", one, uint16="bfloat16", dtype="fp16", key="model", digests=False
    )
    said = metadata_of(one)
    assert said["porter.uint16"] == "bfloat16"
    assert said["porter.dtype"] == "fp16"
    assert said["porter.source_key"] == "model"
    assert said["porter.without"] == "digests"
    two = tmp_path / "c.safetensors"
    repack(one, two)
    left = {"porter.uint16", "porter.dtype", "porter.source_key", "porter.without"}
    assert not left & set(metadata_of(two))
    assert metadata_of(two)["porter.source"] == "b.pdparams"


def metadata_of(path: Path) -> dict[str, str]:
    """Return what an output says about itself."""
    origin = codecs.read(str(path)).origin
    assert origin is not None
    return dict(origin.metadata)
