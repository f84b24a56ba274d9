"""The digest of a source is that of all its bytes, taken in the order of the file."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xxhash

from porter import codecs
from porter.commands.repack import repack
from porter.errors import InputError
from porter.storage import source_digest
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
    monkeypatch.setattr(source_digest, "_PORTION", portion)
    output = tmp_path / "output.pdparams"
    repack(source, output)
    assert recorded(output) == "xxh3-128:" + xxhash.xxh3_128_hexdigest(source.read_bytes())


def test_portions_are_taken_in_turn(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A portion that is begun early waits for those before it."""
    monkeypatch.setattr(source_digest, "_PORTION", 1 << 12)
    found: list[str] = []
    jobs = source_digest.SourceDigest(str(source), found.append).jobs()
    assert len(jobs) > 8
    with ThreadPoolExecutor(len(jobs)) as pool:
        for running in [pool.submit(job.run) for job in reversed(jobs)]:
            running.result(timeout=20)
    assert found == ["xxh3-128:" + xxhash.xxh3_128_hexdigest(source.read_bytes())]


def test_a_failure_sets_the_others_free(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When one portion cannot be read, those that wait for it end."""
    monkeypatch.setattr(source_digest, "_PORTION", 1 << 10)
    found: list[str] = []
    jobs = source_digest.SourceDigest(str(source), found.append).jobs()
    assert len(jobs) > 2
    source.write_bytes(source.read_bytes()[:100])
    with pytest.raises(InputError, match="truncated"):
        jobs[0].run()
    jobs[1].run()
    assert not found
