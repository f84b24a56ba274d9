"""The digests of a file are taken in one pass: of all its bytes, of runs, of the frame."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xxhash

from porter import codecs
from porter.commands.repack import repack
from porter.errors import InputError
from porter.storage import file_digest, pieces
from porter.storage.input_file import InputFile
from porter.storage.pieces import Task
from porter.tensors.state_dict import StateDict


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkpoint whose tensors do not stand in the order of their names."""
    arrays = {f"t{i}": np.full((7 + i, 300), i, np.float32) for i in (9, 3, 11, 1, 4)}
    path = tmp_path / "source.pth"
    codecs.write(StateDict.of(arrays), str(path), "torch")
    return path


def recorded(path: Path) -> str:
    """Return what a `.porter.json` says of the one source."""
    record = json.loads(Path(f"{path}.porter.json").read_text())
    (digest,) = record["sources"].values()
    return str(digest)


@pytest.mark.parametrize("portion", [1 << 10, 1 << 13, 1 << 30])
def test_it_is_the_digest_of_the_whole_file(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, portion: int
) -> None:
    """However it is cut in portions, xxh128sum of the file gives the same."""
    monkeypatch.setattr(file_digest, "_PORTION", portion)
    output = tmp_path / "output.pdparams"
    repack(source, output)
    assert recorded(output) == "xxh3-128:" + xxhash.xxh3_128_hexdigest(source.read_bytes())


def test_portions_are_taken_in_turn(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A portion that is begun early waits for those before it."""
    monkeypatch.setattr(file_digest, "_PORTION", 1 << 12)
    digest = file_digest.FileDigest(str(source))
    jobs = digest.jobs()
    assert len(jobs) > 8
    with ThreadPoolExecutor(len(jobs)) as pool:
        for running in [pool.submit(job.run) for job in reversed(jobs)]:
            running.result(timeout=20)
    assert digest.digest == "xxh3-128:" + xxhash.xxh3_128_hexdigest(source.read_bytes())


def test_a_failure_sets_the_others_free(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When one portion cannot be read, those that wait for it end."""
    monkeypatch.setattr(file_digest, "_PORTION", 1 << 10)
    digest = file_digest.FileDigest(str(source))
    jobs = digest.jobs()
    assert len(jobs) > 2
    source.write_bytes(source.read_bytes()[:100])
    with pytest.raises(InputError, match="truncated"):
        jobs[0].run()
    jobs[1].run()
    assert not digest.digest


@pytest.mark.parametrize("portion", [1 << 10, 1 << 12, 1 << 30])
def test_runs_may_overlap_and_end_anywhere(
    source: Path, monkeypatch: pytest.MonkeyPatch, portion: int
) -> None:
    """Each run has the digest of its bytes, empty ones and those that share bytes included."""
    monkeypatch.setattr(file_digest, "_PORTION", portion)
    monkeypatch.setattr(file_digest, "WRITE_BLOCK", 1 << 9)
    data = source.read_bytes()
    size = len(data)
    runs = [(0, size), (0, 0), (size, 0), (5, 1), (512, 512), (100, 5000), (4000, 1200), (513, 9)]
    digest = file_digest.FileDigest(str(source), runs=runs)
    for job in digest.jobs():
        job.run()
    assert digest.runs == {
        (at, n): f"xxh3-128:{xxhash.xxh3_128_hexdigest(data[at : at + n])}" for at, n in runs
    }


@pytest.mark.parametrize("flipped", [0, 511, 512, 700, 1500])
def test_frame_is_compared_across_blocks(
    source: Path, monkeypatch: pytest.MonkeyPatch, flipped: int
) -> None:
    """What is around the tensors must be found where it was written, whatever it is cut by."""
    monkeypatch.setattr(file_digest, "WRITE_BLOCK", 1 << 9)
    data = source.read_bytes()
    frame = [(0, data[:600]), (700, data[700:701]), (600, data[600:700]), (1000, data[1000:3000])]
    assert not altered(source, frame)
    changed = bytearray(data)
    changed[flipped] ^= 1
    source.write_bytes(changed)
    assert altered(source, frame)


def altered(path: Path, frame: list[tuple[int, bytes]]) -> int:
    """Return how many pieces of a frame are not found."""
    digest = file_digest.FileDigest(str(path), frame=frame)
    for job in digest.jobs():
        job.run()
    return digest.altered


def reading(path: Path, *parts: tuple[int, int]) -> Callable[[], None]:
    """Return a job that reads parts of a file, (offset, bytes), in this order."""

    def run() -> None:
        with InputFile(path) as file:
            for offset, nbytes in parts:
                file.pread_into(offset, bytearray(nbytes))

    return run


SHARED = 5 << 20
"""Bytes of the run that another job reads, from byte 1000 on."""


@pytest.mark.parametrize(
    ("parts", "own"),
    [
        ([(1000, SHARED)], 0),
        ([(1000, 70), (1070, SHARED - 70), (1000, 50)], 0),
        ([(1000, SHARED - 5)], 5),
        ([(1010, 100), (1000, 3)], SHARED - 3),
        ([], SHARED),
    ],
    ids=["whole", "twice", "not to the end", "out of order", "nothing"],
)
def test_what_a_job_reads_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: list[tuple[int, int]], own: int
) -> None:
    """The digests see what another job reads in order, and read what it left out."""
    path = tmp_path / "data"
    data = np.random.default_rng(0).bytes(SHARED + 200_000)
    path.write_bytes(data)
    runs = [(1000, SHARED), (5, 2000), (SHARED, 3000)]
    digest = file_digest.FileDigest(str(path), runs=runs)
    job = Task((str(path), 1000), reading(path, *parts), SHARED)
    read: list[int] = []
    real = InputFile.pread_into

    class Counted(InputFile):
        def pread_into(self, offset: int, buffer: bytearray | memoryview) -> None:
            read.append(len(buffer))
            real(self, offset, buffer)

    monkeypatch.setattr(file_digest, "open_input", Counted)
    jobs = pieces.in_order([job], [digest])
    with ThreadPoolExecutor(len(jobs)) as pool:
        for running in [pool.submit(job.run) for job in reversed(jobs)]:
            running.result(timeout=20)
    assert digest.digest == f"xxh3-128:{xxhash.xxh3_128_hexdigest(data)}"
    assert digest.runs == {
        (at, n): f"xxh3-128:{xxhash.xxh3_128_hexdigest(data[at : at + n])}" for at, n in runs
    }
    assert sum(read) == len(data) - SHARED + own


def test_two_jobs_on_one_run_are_both_run(tmp_path: Path) -> None:
    """Runs that overlap, or end after the file, are left to their jobs."""
    path = tmp_path / "data"
    path.write_bytes(bytes(SHARED))
    done: list[str] = []
    jobs = [
        Task((str(path), 0), lambda: done.append("first"), 4 << 20),
        Task((str(path), 1 << 20), lambda: done.append("second"), 3 << 20),
        Task((str(path), 4 << 20), lambda: done.append("third"), 3 << 20),
    ]
    digest = file_digest.FileDigest(str(path))
    for job in pieces.in_order(jobs, [digest]):
        job.run()
    assert sorted(done) == ["first", "second", "third"]
    assert digest.digest == f"xxh3-128:{xxhash.xxh3_128_hexdigest(bytes(SHARED))}"
