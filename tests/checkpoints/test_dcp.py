"""Folders of torch.distributed.checkpoint, written by torch itself."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dist

import porter
from porter import codecs
from porter.errors import InputError, UsageError

STATE = {
    "a": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "b.c": torch.arange(5).to(torch.bfloat16),
    "scalar": torch.tensor(7),
    "turned": torch.arange(6, dtype=torch.float32).reshape(2, 3).t(),
    "half": torch.arange(8, dtype=torch.float16)[:4],
}


def save(folder: Path, state: dict[str, Any]) -> Path:
    """Write a folder as one process does."""
    dist.save(state, checkpoint_id=str(folder), no_dist=True)
    return folder


def same(found: Any, wanted: dict[str, torch.Tensor]) -> None:
    """Compare names, dtypes, shapes and bytes, of whole tensors and of blocks."""
    assert sorted(found) == sorted(wanted)
    for name, tensor in wanted.items():
        dense = tensor.contiguous()
        data = dense.reshape(-1).view(torch.uint8).numpy().tobytes()
        assert found[name].dtype.torch == str(tensor.dtype).removeprefix("torch."), name
        assert found[name].shape == tuple(tensor.shape), name
        assert found[name].read().tobytes() == data, name
        assert b"".join(bytes(block) for block in found[name].blocks(16)) == data, name


@pytest.mark.parametrize("wrap", [{}, {"model": ...}, {"app": {"state_dict": ...}}])
def test_folder_is_read_as_torch_wrote_it(wrap: dict[str, Any], tmp_path: Path) -> None:
    """Nested as it was saved: the state dict is found, everything else is named."""
    state: dict[str, Any] = dict(STATE)
    if "model" in wrap:
        state = {"model": STATE, "optimizer": {"exp_avg": torch.ones(2)}, "epoch": 3}
    elif wrap:
        state = {"app": {"state_dict": STATE}}
    found = porter.open(save(tmp_path / "dcp", state))
    same(found, STATE)
    assert found.origin is not None
    assert found.origin.format == "dcp"
    assert len(found.origin.files) == 2
    if "model" in wrap:
        assert found.origin.wrapper == "model"
        assert any("epoch" in line for line in found.origin.skipped)
        assert any("optimizer" in line for line in found.origin.skipped)


def test_key_names_a_state_dict_of_the_folder(tmp_path: Path) -> None:
    """As in a file, `key` takes another state dict, and an unknown one is refused."""
    folder = save(tmp_path / "dcp", {"model": STATE, "ema": {"a": torch.ones(3)}})
    assert porter.open(folder, key="ema")["a"].read().tolist() == [1, 1, 1]
    with pytest.raises(UsageError, match="model"):
        porter.open(folder, key="other")


def test_metadata_or_a_part_means_the_folder(tmp_path: Path) -> None:
    """Whoever names a file of the folder means all of it."""
    folder = save(tmp_path / "dcp", STATE)
    for name in (".metadata", "__0_0.distcp"):
        found = porter.open(folder / name)
        same(found, STATE)
        assert found.origin is not None
        assert found.origin.notes == (f"{name} is a part of the checkpoint in its folder",)


SHARDED = """
import os, sys, torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
rank, folder = int(sys.argv[1]), sys.argv[2]
store = dist.FileStore(os.path.join(folder, "store"), 2)
dist.init_process_group("gloo", rank=rank, world_size=2, store=store)
mesh = init_device_mesh("cpu", (2,))
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 1))
whole = {n: t.clone() for n, t in model.state_dict().items()}
fully_shard(model, mesh=mesh)
wide = torch.arange(12.).reshape(4, 3)
state = {"model": {**model.state_dict(), "wide": distribute_tensor(wide, mesh, [Shard(1)])}}
dcp.save(state, checkpoint_id=os.path.join(folder, "dcp"))
if rank == 0:
    torch.save({**whole, "wide": wide}, os.path.join(folder, "whole.pth"))
dist.barrier()
os._exit(0)  # gloo's threads may abort at the end of the interpreter
"""


def test_fsdp_in_two_processes(tmp_path: Path) -> None:
    """FSDP's shards are put together: uneven ones, empty ones, and those along another axis."""
    command = [sys.executable, "-c", SHARDED]
    ranks = [subprocess.Popen([*command, str(n), str(tmp_path)]) for n in range(2)]
    assert [process.wait(120) for process in ranks] == [0, 0]
    assert len(list((tmp_path / "dcp").glob("*.distcp"))) == 2
    same(porter.open(tmp_path / "dcp"), torch.load(tmp_path / "whole.pth"))
    written = tmp_path / "out.safetensors"
    porter.repack(tmp_path / "dcp", written)
    assert sorted(codecs.read(str(written))) == [f"model.{n}" for n in
        ("0.bias", "0.weight", "1.bias", "1.weight", "wide")]  # fmt: skip


def rewrite(folder: Path, change: Any) -> None:
    """Change the metadata of a folder as torch's own classes have it."""
    path = folder / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    change(metadata)
    path.write_bytes(pickle.dumps(metadata))


def _gap(metadata: Any) -> None:
    metadata.state_dict_metadata["a"].chunks[0].sizes = torch.Size([2, 4])


def _outside(metadata: Any) -> None:
    chunk = metadata.state_dict_metadata["a"].chunks[0]
    chunk.sizes = torch.Size([4, 3])


def _short(metadata: Any) -> None:
    for info in metadata.storage_data.values():
        info.length += 1 << 20


def _elsewhere(metadata: Any) -> None:
    for info in metadata.storage_data.values():
        info.relative_path = "../x.distcp"


def _nowhere(metadata: Any) -> None:
    metadata.storage_data.clear()
    metadata.storage_data["x"] = None


def _changed(metadata: Any) -> None:
    for info in metadata.storage_data.values():
        info.transform_descriptors = ["stream.zstd"]


def _twice(metadata: Any) -> None:
    metadata.planner_data["a"] = metadata.planner_data["scalar"]


def _below(metadata: Any) -> None:
    metadata.planner_data["a"] = (*metadata.planner_data["scalar"], "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_gap, r"the chunks of a do not make up \[3, 4\]"),
        (_outside, r"the chunks of a do not make up \[3, 4\]"),
        (_short, "truncated"),
        (_elsewhere, "not a path below"),
        (_nowhere, "an index is a text, not MetadataIndex"),
        (_changed, "zstd"),
        (_twice, "two entries are called"),
        (_below, "is below what is not a dictionary|two entries"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    """Chunks fill their tensor, places are in their files, names are there once."""
    folder = save(tmp_path / "dcp", STATE)
    rewrite(folder, change)
    with pytest.raises(InputError, match=message):
        porter.open(folder)


def test_chunk_of_another_tensor_is_refused_when_it_is_read(tmp_path: Path) -> None:
    """What is stored must be of the dtype and shape that the metadata says."""
    folder = save(tmp_path / "dcp", {"a": torch.ones(3), "b": torch.ones(3, dtype=torch.int32)})

    def swap(metadata: Any) -> None:
        first, second = metadata.storage_data.values()
        first.offset, second.offset = second.offset, first.offset
        first.length, second.length = second.length, first.length

    rewrite(folder, swap)
    found = porter.open(folder)
    for name in "ab":
        with pytest.raises(InputError, match=r"not the (float32|int32) \[3\] of"):
            found[name].read()


def test_damage_in_a_chunk_is_found(tmp_path: Path) -> None:
    """Each chunk has the checksum of its zip."""
    folder = save(tmp_path / "dcp", {"a": torch.full((64,), 3.0)})
    part = folder / "__0_0.distcp"
    data = part.read_bytes()
    at = data.index(np.full(64, 3, np.float32).tobytes())
    part.write_bytes(data[:at] + b"\1" + data[at + 1 :])
    with pytest.raises(InputError, match="its checksum differs"):
        porter.repack(folder, tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()


def test_folder_without_its_metadata_or_parts(tmp_path: Path) -> None:
    """Either without the other is refused with what is missing."""
    folder = save(tmp_path / "dcp", STATE)
    shutil.copytree(folder, tmp_path / "parts")
    (tmp_path / "parts" / ".metadata").unlink()
    with pytest.raises(InputError, match=r"has \*.distcp and not .metadata"):
        porter.open(tmp_path / "parts")
    (folder / "__0_0.distcp").unlink()
    with pytest.raises(InputError, match=r"__0_0\.distcp: no such file"):
        porter.open(folder)


def test_another_pickle_is_not_metadata(tmp_path: Path) -> None:
    """A file of that name that torch did not write is refused, and nothing in it runs."""
    for value, message in ((3, "not Metadata of torch"), ({"a": 1}, "not Metadata of torch")):
        (tmp_path / ".metadata").write_bytes(pickle.dumps(value))
        with pytest.raises(InputError, match=message):
            porter.open(tmp_path)
    (tmp_path / ".metadata").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(InputError):
        porter.open(tmp_path)
