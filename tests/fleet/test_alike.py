"""Files that differ in the values of their tensors only are converted as the first of them was."""

from __future__ import annotations

import errno
import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from porter import codecs
from porter.fleet import worker
from porter.fleet.alike.learnt import Alike, Kind
from porter.fleet.job import Job, Result
from porter.storage import atomic_output, positional, together
from porter.tensors.state_dict import StateDict

TABLE = """
family = "alike"

[layers]
"a.{i}" = "linear"
"b" = "norm"

[dialects.other]
framework = "torch"
"""
SHAPES = {"a.0.weight": (5, 3), "a.0.bias": (5,), "a.1.weight": (64, 70), "a.1.bias": (64,),
          "b.weight": (7,), "b.bias": (7,)}  # fmt: skip
TURNED = {name: shape[::-1] if name.startswith("a") else shape for name, shape in SHAPES.items()}
SUFFIXES = {"torch": ".pth", "paddle": ".pdparams", "safetensors": ".safetensors"}


@pytest.fixture
def learnt(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Begin with nothing learnt; return the names of the jobs that are done as was learnt."""
    alike, names = Alike(), list[str]()

    def noted(job: Job, kind: Kind) -> Result | None:
        result = convert(job, kind)
        names.extend([job.name] if result is not None else [])
        return result

    convert = alike.convert
    monkeypatch.setattr(alike, "convert", noted)
    monkeypatch.setattr(worker, "_learnt", alike)
    yield names
    alike.rest()


def sources(folder: Path, format: str, count: int, names: str = "n nn nnn nnnn") -> list[Path]:
    """Write checkpoints of one structure, each with other values."""
    stems = [*names.split(), *(f"more{number}" for number in range(count))]
    (folder / "t.toml").write_text(TABLE)
    paths = []
    for number in range(count):
        values = np.random.default_rng(number)
        shapes = TURNED if format == "paddle" else SHAPES
        state = StateDict.of(
            {name: values.random(shape, np.float32) for name, shape in shapes.items()}
        )
        paths.append(folder / f"{stems[number]}{SUFFIXES[format]}")
        codecs.write(state, str(paths[-1]), format, sync=False)
    return paths


def jobs(folder: Path, paths: list[Path], to: str, out: str, **more: Any) -> list[Job]:
    """Return a conversion of each file."""
    made = []
    for path in paths:
        format = next(name for name, suffix in SUFFIXES.items() if suffix == path.suffix)
        from_ = "safetensors:torch" if format == "safetensors" else format
        output = str(folder / out / (path.stem + SUFFIXES[to.partition(":")[0]]))
        arguments = {"architecture": str(folder / "t.toml"), "source": str(path), "output": output,
                     "from_": from_, "to": to, "sync": False, **more}  # fmt: skip
        made.append(Job(path.stem, "convert", arguments))
    return made


def written(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files."""
    paths = [path for path in sorted(folder.iterdir()) if not path.name.endswith(".porter-lock")]
    return {path.name: path.read_bytes() for path in paths}


OPTIONS: list[dict[str, Any]] = [
    {},
    {"verify": False, "read_back": False},
    {"digests": False},
    {"digest": "sha256"},
    {"record": False},
    {"verify": False, "digests": False, "read_back": False},
    {"sync": True},
]


@pytest.mark.parametrize(
    ("source", "to", "more"),
    [
        ("torch", "paddle", {}),
        ("paddle", "torch", {}),
        ("safetensors", "torch", {}),
        ("safetensors", "paddle", {}),
        ("torch", "safetensors", {}),
        ("paddle", "safetensors", {"verify": False, "read_back": False}),
        ("torch", "safetensors:paddle", {"sync": True}),
        *(("torch", "paddle", more) for more in OPTIONS[1:]),
    ],
)
def test_outputs_are_those_of_convert(
    source: str, to: str, more: dict[str, Any], learnt: list[str], tmp_path: Path
) -> None:
    """The third file is converted as was learnt: outputs, records and results are the same."""
    # The header of safetensors states the name of the source.
    names = "n1 n2 n3 n4" if to.startswith("safetensors") else "n nn nnn nnnn"
    paths = sources(tmp_path, source, 4, names)
    results = [worker.run(job) for job in jobs(tmp_path, paths, to, "out", **more)]
    assert learnt == names.split()[2:]
    learnt.clear()
    for job in jobs(tmp_path, paths, to, "plain", **more):
        worker._learnt = Alike()  # type: ignore[assignment]
        expected = worker.run(job)
        result = next(r for r in results if r.name == job.name)
        known = {"output": "", "seconds": 0}
        assert result.as_json() | known == expected.as_json() | known
    assert learnt == []
    assert written(tmp_path / "out") == written(tmp_path / "plain")


def test_header_of_another_length(learnt: list[str], tmp_path: Path) -> None:
    """A name that makes the header of an output longer: converted as usual, and then learnt."""
    paths = sources(tmp_path, "torch", 6, "a b c dddddddddddd eeeeeeeeeeee ffffffffffff")
    for job in jobs(tmp_path, paths, "safetensors", "out"):
        assert worker.run(job).status == "converted"
        origin = codecs.read(job.output).origin
        assert origin is not None
        assert origin.metadata["porter.source"] == f"{job.name}.pth"
    assert learnt == ["c", "eeeeeeeeeeee", "ffffffffffff"]


def test_other_files_are_converted_as_usual(learnt: list[str], tmp_path: Path) -> None:
    """A file with another name in it, an output or a record that is there: nothing is copied."""
    paths = sources(tmp_path, "torch", 4)
    assert {worker.run(job).status for job in jobs(tmp_path, paths[:2], "paddle", "out")} == {
        "converted"
    }
    (third, fourth) = jobs(tmp_path, paths[2:], "paddle", "out")
    data = paths[2].read_bytes()
    assert data.count(b"a.1.weight") == 1
    paths[2].write_bytes(data.replace(b"a.1.weight", b"a.2.weight"))
    assert worker.run(third).status == "refused"
    Path(fourth.output).write_bytes(b"")
    result = worker.run(fourth)
    assert (result.status, "exists already" in result.message) == ("refused", True)
    assert learnt == []


def test_damaged_file_is_refused(learnt: list[str], tmp_path: Path) -> None:
    """A byte of a tensor that does not fit its checksum, wherever the checksum is stated."""
    paths = sources(tmp_path, "torch", 5)
    todo = jobs(tmp_path, paths, "paddle", "out")
    for job in todo[:2]:
        worker.run(job)
    whole = paths[2].read_bytes()
    weight = codecs.read(str(paths[2]))["a.1.weight"].extent
    assert weight is not None
    crc = struct.pack("<I", zlib.crc32(whole[weight.offset :][: weight.nbytes]))
    assert whole.count(crc) == 2
    places = [weight.offset + 9, whole.index(crc), whole.rindex(crc)]
    for job, path, place in zip(todo[2:], paths[2:], places, strict=True):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        assert worker.run(job).status == "refused"
        assert not Path(job.output).exists()
    assert learnt == []


def test_read_back_finds_damage(
    learnt: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the disk changes is found before the output has its name."""
    paths = sources(tmp_path, "torch", 3)
    todo = jobs(tmp_path, paths, "paddle", "out")
    for job in todo[:2]:
        worker.run(job)
    write = positional.write_at

    def damaged(fd: int, data: Any, offset: int) -> None:
        write(fd, bytes([data[0] ^ 1]) + bytes(data[1:]), offset)

    monkeypatch.setattr(together, "write_at", damaged)
    result = worker.run(todo[2])
    assert result.status == "refused"
    assert "read-back check failed: bytes differ" in result.message
    assert [*written(tmp_path / "out")] == [
        f"{n}.pdparams{s}" for n in ("n", "nn") for s in ("", ".porter.json")
    ]


def test_what_is_not_a_copy_is_not_learnt(learnt: list[str], tmp_path: Path) -> None:
    """Casts, shards, and a proof without reading back take the usual way."""
    paths = sources(tmp_path, "torch", 3)
    for more in ({"dtype": "fp16"}, {"read_back": False}, {"max_shard_size": "1MB"}):
        for number, job in enumerate(jobs(tmp_path, paths, "paddle", "out")):
            changed = {
                **job.arguments,
                **more,
                "output": str(tmp_path / f"{[*more]}{number}.pdparams"),
            }
            assert worker.run(Job(job.name, "convert", changed)).status == "converted"
    assert learnt == []


def results(jobs: Iterable[Job]) -> dict[str, Result]:
    """Run jobs as a worker that was sent them together."""
    rows = [row for answer in worker.answers(jobs) for row in answer["results"]]
    return {row["name"]: Result.of(row) for row in rows}


def test_outputs_wait_for_the_disk_together(
    learnt: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes of all are on the disk before the first of them has its name."""
    calls: list[str] = []
    for name in ("fsync", "link", "replace"):
        call = getattr(os, name)

        def noted(*args: Any, name: str = name, call: Any = call) -> Any:
            is_lock = str(args[-1]).endswith("lock")
            calls.extend([] if is_lock else [name])
            return call(*args)

        monkeypatch.setattr(os, name, noted)
    todo = jobs(tmp_path, sources(tmp_path, "torch", 7), "paddle", "out", sync=True)
    assert {r.status for r in results(todo[:2]).values()} == {"converted"}
    calls.clear()
    monkeypatch.setattr(atomic_output, "_listed", None)  # No folder is listed for one of its files.
    assert {r.status for r in results(todo[2:]).values()} == {"converted"}
    assert len(learnt) == 5
    assert calls == ["fsync"] * 10 + ["link"] * 10 + ["fsync"]
    names = {f"{job.name}.pdparams{suffix}" for job in todo for suffix in ("", ".porter.json")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names


def test_output_that_came_into_being_meanwhile_stays(learnt: list[str], tmp_path: Path) -> None:
    """Of several that wait, one is refused, and neither its file nor its record is written."""
    todo = jobs(tmp_path, sources(tmp_path, "torch", 5), "paddle", "out", sync=True)
    results(todo[:2])

    def disturbed() -> Iterator[Job]:
        yield from todo[2:]
        Path(todo[3].output).write_bytes(b"another")

    found = results(disturbed())
    assert [found[job.name].status for job in todo[2:]] == ["converted", "refused", "converted"]
    assert "came into being meanwhile" in found[todo[3].name].message
    assert Path(todo[3].output).read_bytes() == b"another"
    names = {f"{job.name}.pdparams{suffix}" for job in todo for suffix in ("", ".porter.json")}
    names.remove(f"{todo[3].name}.pdparams.porter.json")
    assert {path.name for path in (tmp_path / "out").iterdir()} == names


def test_source_that_changes_meanwhile_is_refused(learnt: list[str], tmp_path: Path) -> None:
    """What was read of a file that is another one now is not published."""
    paths = sources(tmp_path, "torch", 4)
    todo = jobs(tmp_path, paths, "paddle", "out")
    results(todo[:2])

    def disturbed() -> Iterator[Job]:
        yield from todo[2:]
        os.utime(paths[2])

    found = results(disturbed())
    assert [found[job.name].status for job in todo[2:]] == ["refused", "converted"]
    assert "changed while it was being read" in found[todo[2].name].message
    assert len([*(tmp_path / "out").iterdir()]) == 6


@pytest.mark.parametrize("written", [0, 1])
def test_disk_that_is_full_leaves_nothing(
    learnt: list[str], written: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The output or its record finds no room: one line, and neither of them is there."""
    todo = jobs(tmp_path, sources(tmp_path, "torch", 3), "paddle", "out")
    results(todo[:2])
    write, calls = positional.write_at, list[int]()

    def full(fd: int, data: Any, offset: int) -> None:
        calls.append(len(data))
        if len(calls) > written:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(fd, data, offset)

    monkeypatch.setattr(together, "write_at", full)
    (result,) = results(todo[2:]).values()
    assert result.status == "refused"
    assert f"No space left on device; {calls[-1]:,} bytes are needed" in result.message
    assert len([*(tmp_path / "out").iterdir()]) == 4


def test_disk_that_fails_leaves_nothing(
    learnt: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every output that waited is refused with the disk's reason."""
    todo = jobs(tmp_path, sources(tmp_path, "torch", 4), "paddle", "out", sync=True)
    results(todo[:2])

    def broken(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    for result in results(todo[2:]).values():
        assert result.status == "refused"
        assert "cannot be written: Input/output error" in result.message
    assert len([*(tmp_path / "out").iterdir()]) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="children are listed in /proc")
@pytest.mark.parametrize("who", ["driver", "worker"])
def test_killed_run_of_small_files(who: str, tmp_path: Path) -> None:
    """Jobs are sent together: what had a result is not run again, and the outputs are the same."""
    count = 300
    first = sources(tmp_path, "torch", 1)[0]
    (tmp_path / "in").mkdir()
    for number in range(count):
        (tmp_path / f"in/{number}.pth").write_bytes(first.read_bytes())
    (tmp_path / "m.toml").write_text(
        f'[[jobs]]\narch = "{tmp_path}/t.toml"\nfrom = "torch"\nto = "paddle"\n'
        'input = "in/*.pth"\noutput = "out/{stem}.pdparams"\n'
    )
    argv = [sys.executable, "-P", "-m", "porter", "fleet", str(tmp_path / "m.toml"),
            "--workers", "2", "--quiet"]  # fmt: skip
    journal = tmp_path / ".m.toml.fleet/journal.jsonl"
    process = subprocess.Popen(argv, stderr=subprocess.PIPE)
    while not (journal.exists() and b'"finished"' in journal.read_bytes()):
        assert process.poll() is None
        time.sleep(0.001)
    threads = Path(f"/proc/{process.pid}/task").iterdir()
    workers = [int(p) for t in threads for p in (t / "children").read_text().split()]
    os.kill(workers[0] if who == "worker" else process.pid, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    if who == "driver":
        process = subprocess.Popen([*argv, "--resume"], stderr=subprocess.PIPE)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    rows = [json.loads(line) for line in journal.read_text().splitlines() if line[-1] == "}"]
    finished = [row["finished"]["name"] for row in rows if "finished" in row]
    assert len(finished) == len({*finished}) == count
    found = written(tmp_path / "out")
    assert len(found) == 2 * count
    assert len({data for name, data in found.items() if name.endswith(".pdparams")}) == 1
