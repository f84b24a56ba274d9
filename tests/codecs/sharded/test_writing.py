"""Checkpoints in shards: index and shards agree, a killed run is taken up again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
import xxhash

from porter import codecs
from porter.codecs import check
from porter.codecs.sharded.writing import parse_size, split
from porter.commands.repack import repack
from porter.errors import InputError, SystemFault, UsageError
from porter.storage.lock import locked
from porter.tensors.dtypes import DTYPES
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict

ARRAYS = {f"l{i}": np.full((5, 5), i, np.float32) for i in range(7)}
FORMAT = {".safetensors": "safetensors", ".bin": "torch"}


def write(folder: Path, name: str = "model.safetensors", **options: object) -> Path:
    target = folder / name
    done = codecs.write(
        StateDict.of(ARRAYS),
        str(target),
        FORMAT[target.suffix],
        **{"max_shard_size": "250B", **options},  # type: ignore[arg-type]
    )
    return Path(done.path)


def sums(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_shards_are_what_their_libraries_read(name: str, tmp_path: Path) -> None:
    """Names, index and content are those of Hugging Face; the libraries read every shard."""
    index = write(tmp_path, name)
    assert index.name == f"{name}.index.json"
    rows = json.loads(index.read_text())
    assert rows["metadata"]["total_size"] == 700
    stem, suffix = Path(name).stem, Path(name).suffix
    assert sorted(set(rows["weight_map"].values())) == [
        f"{stem}-{i:05d}-of-00004{suffix}" for i in range(1, 5)
    ]
    load = safetensors.numpy.load_file if suffix == ".safetensors" else torch.load
    for tensor, file in rows["weight_map"].items():
        assert np.array_equal(load(tmp_path / file)[tensor], ARRAYS[tensor])
    back = codecs.read(str(index))
    assert list(back) == list(ARRAYS)
    assert back.origin is not None
    assert len(back.origin.files) == 5


def test_one_shard_needs_no_index(tmp_path: Path) -> None:
    """What fits into one shard is one plain file."""
    assert write(tmp_path, max_shard_size="1GB").name == "model.safetensors"
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_formats_without_shards_say_so(tmp_path: Path) -> None:
    """A container that nobody shards is refused."""
    with pytest.raises(UsageError, match="paddle files have no shards"):
        codecs.write(
            StateDict.of(ARRAYS), str(tmp_path / "a.pdparams"), "paddle", max_shard_size=250
        )


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5 * 10**9), ("1.5 kb", 1500), ("2GiB", 2 << 30), ("7", 7), (8, 8), ("3B", 3)],
)
def test_sizes(text: str | int, size: int) -> None:
    """Sizes are decimal, or binary with an i, or plain bytes."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "5 XB", "-1GB", "0", "1e9", 0, "9" * 400])
def test_senseless_sizes_are_refused(text: str | int) -> None:
    """What is no size is refused."""
    with pytest.raises(UsageError):
        parse_size(text)


def test_tied_tensors_stay_together() -> None:
    """Tied tensors share a shard, a large tensor has one of its own, order is kept."""
    small = LazyTensor.of(np.zeros(10, np.uint8))
    tied = [LazyTensor.of(np.zeros(10, np.uint8)) for _ in range(2)]
    for tensor in tied:
        tensor.tie = "t"
    large = LazyTensor.of(np.zeros(99, np.uint8))
    state = StateDict({"a": tied[0], "b": small, "c": large, "d": tied[1], "e": small})
    assert split(state, 30) == [["a", "d", "b"], ["c"], ["e"]]


# The same as `write`, and of a file, killed when one more shard is on record.
_KILLED_AT_NOTE = """
import os, sys
from porter.codecs.sharded import writing
note = writing.Journal.note
def stop(self, name, written):
    note(self, name, written)
    os.kill(os.getpid(), 9)
writing.Journal.note = stop
"""
_KILLED = f"""{_KILLED_AT_NOTE}
import numpy as np
from porter import codecs
from porter.tensors.state_dict import StateDict
state = StateDict.of({{f"l{{i}}": np.full((5, 5), i, np.float32) for i in range(7)}})
codecs.write(state, sys.argv[1], sys.argv[2], max_shard_size="250B", metadata={{"a": "b"}})
"""


_KILLED_REPACK = f"""{_KILLED_AT_NOTE}
from porter.commands.repack import repack
repack(sys.argv[1], sys.argv[2], max_shard_size=250)
"""


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_killed_run_is_taken_up(name: str, tmp_path: Path) -> None:
    """Killed after each shard and begun again, the set is byte for byte an uninterrupted one."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    write(whole, name, metadata={"a": "b"})
    for shards in range(1, 5):
        command = [sys.executable, "-c", _KILLED, str(cut / name), FORMAT[Path(name).suffix]]
        assert subprocess.run(command, check=False).returncode == -9
        journal = json.loads((cut / f".{name}.porter-parts" / "journal.json").read_text())
        assert len(journal["done"]) == shards
        assert not list(cut.glob("*.index.json"))
    write(cut, name, metadata={"a": "b"})
    assert sums(cut) == sums(whole)


def interrupted(folder: Path) -> Path:
    """Leave a run behind that has finished some shards and was then interrupted."""

    class Interrupt(BaseException):
        pass

    def read() -> np.ndarray:
        raise Interrupt

    bad = LazyTensor(DTYPES["float32"], (5, 5), read)
    state = StateDict({n: bad if n == "l4" else LazyTensor.of(a) for n, a in ARRAYS.items()})
    with pytest.raises(Interrupt):
        codecs.write(state, str(folder / "model.safetensors"), "safetensors", max_shard_size=250)
    return folder / ".model.safetensors.porter-parts"


def test_damaged_part_is_written_again(tmp_path: Path) -> None:
    """A finished shard is reused only while its digests fit."""
    parts = interrupted(tmp_path)
    (part,) = parts.glob("model-00001-*")
    data = bytearray(part.read_bytes())
    data[-1] ^= 1
    part.write_bytes(data)
    index = write(tmp_path)
    assert {n: t.read().tolist() for n, t in codecs.read(str(index)).items()} == {
        n: a.tolist() for n, a in ARRAYS.items()
    }
    assert not parts.exists()


def test_other_parameters_do_not_resume(tmp_path: Path) -> None:
    """A run with other parameters is refused where one was begun; force starts anew."""
    interrupted(tmp_path)
    with pytest.raises(UsageError, match="other parameters"):
        write(tmp_path, metadata={"other": "1"})
    write(tmp_path, metadata={"other": "1"}, force=True)
    assert not (tmp_path / ".model.safetensors.porter-parts").exists()


def test_changed_input_does_not_resume(tmp_path: Path) -> None:
    """Half of the shards of one input and half of another are no set."""
    source = tmp_path / "a.npz"
    np.savez(source, **ARRAYS)
    output, options = tmp_path / "model.safetensors", {"max_shard_size": 250}
    command = [sys.executable, "-c", _KILLED_REPACK, str(source), str(output)]
    assert subprocess.run(command, check=False).returncode == -9
    np.savez(source, **{name: array + 1 for name, array in ARRAYS.items()})
    with pytest.raises(UsageError, match="of an input that has changed"):
        repack(source, output, **options)
    assert not list(tmp_path.glob("model*"))
    repack(source, output, force=True, **options)
    back = codecs.read(str(tmp_path / "model.safetensors.index.json"))
    assert all((back[name].read() == array + 1).all() for name, array in ARRAYS.items())


def test_second_writer_waits_for_nobody(tmp_path: Path) -> None:
    """Two runs on one output: the second ends with the code of the environment."""
    index = str(tmp_path / "model.safetensors.index.json")
    with locked(index), pytest.raises(SystemFault, match="another process"):
        write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_replaced_set_leaves_no_old_shard(tmp_path: Path) -> None:
    """A set that is replaced by one of fewer shards leaves none of its own behind."""
    write(tmp_path)
    with pytest.raises(UsageError, match="--force"):
        write(tmp_path)
    write(tmp_path, max_shard_size="400B", force=True)
    assert len(list(tmp_path.glob("model-*-of-00002.safetensors"))) == 2
    assert len(list(tmp_path.iterdir())) == 3


def test_replaced_set_keeps_its_permissions(tmp_path: Path) -> None:
    """The shards and the index of a private set are private, also when there are fewer."""
    write(tmp_path)
    for path in tmp_path.iterdir():
        path.chmod(0o600)
    write(tmp_path, max_shard_size="400B", force=True)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {0o600}


_KILLED_WITHOUT_INDEX = """
import os, sys
from porter.storage import atomic_output
import porter.codecs.sharded.writing as writing
def stop(*args):
    os.kill(os.getpid(), 9)
atomic_output.sync_folder = stop if sys.argv[4] == "moved" else atomic_output.sync_folder
if sys.argv[4] == "published":
    writing.Folder.remove = stop
from porter.commands.repack import repack
repack(sys.argv[1], sys.argv[2], max_shard_size=int(sys.argv[3]), force=True, sync=False)
"""


@pytest.mark.parametrize("moment", ["moved", "published"])
def test_a_kill_between_two_indexes_leaves_no_shard(moment: str, tmp_path: Path) -> None:
    """The run after a kill removes the shards of the replaced set, also with other sizes."""
    source, folder = tmp_path / "a.npz", tmp_path / "out"
    np.savez(source, **ARRAYS)
    for size in (400, 300):
        folder.mkdir()
        target = str(folder / "model.safetensors")
        repack(str(source), target, max_shard_size=150)
        command = [sys.executable, "-c", _KILLED_WITHOUT_INDEX, str(source), target, "400", moment]
        assert subprocess.run(command, check=False).returncode == -9
        repack(str(source), target, max_shard_size=size, force=True)
        left = {path.name for path in folder.iterdir()}
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        shards = set(index["weight_map"].values())
        index_name = "model.safetensors.index.json"
        assert left == shards | {index_name, f"{index_name}.porter.json"}
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    "journal",
    [
        '{"parameters":"","done":5}',
        "[" * 100_000,
        '{"parameters":"","done":{"model-00001-of-00004.safetensors":5}}',
        '{"parameters":"","done":{"model-00001-of-00004.safetensors":{"bytes":1,"digest":5}}}',
        '{"parameters":"","done":{},"replaced":["../precious"]}',
        '{"parameters":"","done":{},"replaced":[5]}',
        '{"parameters":"","done":{},"replaced":["precious"]}',
    ],
)
def test_a_damaged_journal_is_passed_over(journal: str, tmp_path: Path) -> None:
    """A journal that is not one changes nothing and removes no other file."""
    parts = tmp_path / ".model.safetensors.porter-parts"
    parts.mkdir()
    (tmp_path / "precious").write_bytes(b"precious")
    (parts / "journal.json").write_text(journal)
    write(tmp_path)
    state = codecs.read(str(tmp_path / "model.safetensors.index.json"))
    assert len(state) == len(ARRAYS)
    assert (tmp_path / "precious").exists()
    assert not parts.exists()


def test_a_pipe_as_journal_is_refused(tmp_path: Path) -> None:
    """Nothing waits for a writer of it."""
    parts = tmp_path / ".model.safetensors.porter-parts"
    parts.mkdir()
    os.mkfifo(parts / "journal.json")
    with pytest.raises(UsageError, match="not a regular file"):
        write(tmp_path)


@pytest.mark.parametrize(
    ("index", "what"),
    [
        ({"weight_map": {"a": "k-00001-of-" + "9" * 4400 + ".safetensors"}}, "cannot be opened"),
        ({"weight_map": {"a": "../x.safetensors"}}, "not a path below"),
        ({"weight_map": {"a": "/x.safetensors"}}, "not a path below"),
        ({"weight_map": {}}, "no weight_map"),
        ({"metadata": {}}, "no weight_map"),
        ({"weight_map": "a"}, "{ expected"),
        ({"weight_map": {"a": "m-00001-of-00003.safetensors"}}, "one of 3 shards"),
        ({"weight_map": {"a": "x.npz"}}, "no such file"),
    ],
)
def test_every_rule_of_the_index(index: object, what: str, tmp_path: Path) -> None:
    """Each rule refuses the index that breaks it."""
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    with pytest.raises(InputError, match=what):
        codecs.read(str(path))


def test_shard_of_another_kind_is_refused(tmp_path: Path) -> None:
    """A file that no checkpoint has as a shard is refused, whatever its name."""
    np.savez(tmp_path / "x.safetensors", a=np.ones(1))
    (tmp_path / "x.safetensors.npz").rename(tmp_path / "x.safetensors")
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": "x.safetensors"}}))
    with pytest.raises(InputError, match="not a shard of a checkpoint"):
        codecs.read(str(path))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_source_is_hashed_once_for_all_shards(name: str, tmp_path: Path) -> None:
    """The record has the digests of the whole source and of all files, those of `xxh128sum`."""
    source = tmp_path / "in.safetensors"
    codecs.write(StateDict.of(ARRAYS), str(source), "safetensors")
    state = codecs.read(str(source))
    done = codecs.write(
        state, str(tmp_path / name), FORMAT[Path(name).suffix], max_shard_size=250, metadata={}
    )
    expected = {"in.safetensors": f"xxh3-128:{xxhash.xxh3_128_hexdigest(source.read_bytes())}"}
    shards = [Path(path) for path in done.files if path.endswith(Path(name).suffix)]
    record = json.loads(Path(done.record).read_text())
    assert {shard.name for shard in shards} < record["files"].keys()
    for path in (*shards, Path(done.path)):
        digest = f"xxh3-128:{xxhash.xxh3_128_hexdigest(path.read_bytes())}"
        assert record["files"][path.name] == {"bytes": path.stat().st_size, "digest": digest}
    assert len(shards) == 4
    checked = check.check(done.path)
    assert checked.ok
    assert checked.sources == expected
    assert list(done.digests) == list(ARRAYS)


def test_first_fault_stops_the_shards_that_wait(tmp_path: Path) -> None:
    """A shard that cannot be written is the error; those after it are not begun."""
    read: list[str] = []

    def reader(name: str) -> Callable[[], np.ndarray]:
        def run() -> np.ndarray:
            read.append(name)
            if name == "l2":
                raise InputError("is damaged", "in.pth")
            return ARRAYS[name]

        return run

    state = StateDict({n: LazyTensor(DTYPES["float32"], (5, 5), reader(n)) for n in ARRAYS})
    with pytest.raises(InputError, match="is damaged"):
        codecs.write(state, str(tmp_path / "model.safetensors"), "safetensors", max_shard_size=120)
    assert list(tmp_path.iterdir()) == []
    assert "l6" not in read
