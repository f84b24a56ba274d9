"""The same jobs on Ray: a real cluster on this machine."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import porter
from porter.errors import SystemFault
from porter.fleet.job import Result
from porter.fleet.on_ray import RayPool, RayShards
from porter.fleet.run import fleet
from tests.buckets import bucket, server
from tests.fleet import shard_runs

__all__ = ["bucket", "server"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are listed in /proc")


def actors(name: bytes = b"ray::Actor") -> list[int]:
    """Return the processes of the actors of a name."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdecimal() and name in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def test_lost_actor_is_replaced(tmp_path: Path) -> None:
    """Jobs run on actors; one that is killed is begun once more, and all outputs are the same."""
    porter.init("deit-tiny-224", tmp_path / "deit.pth")
    manifest = tmp_path / "jobs.toml"
    manifest.write_text("""
[defaults]
from = "torch"
to = "paddle"
verify = false
sync = false
arch = "deit-tiny-224"
input = "deit.pth"
[[jobs]]
number = [1, 2, 3, 4, 5]
output = "out/{number}.pdparams"
[[jobs]]
arch = "deit-small-224"
output = "out/bad.pdparams"
""")
    killed: list[int] = []

    def watch(result: Result, done: int, total: int) -> None:
        if done == 2:
            for pid in actors():
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    summary = fleet(manifest, runner=RayPool(None, 1), watch=watch)
    assert killed
    assert [r.status for r in summary.results] == ["converted"] * 5 + ["refused"]
    outputs = {path.read_bytes() for path in (tmp_path / "out").glob("*.pdparams")}
    assert len(outputs) == 1
    assert summary.exit_code == 1
    journal = (tmp_path / ".jobs.toml.fleet/journal.jsonl").read_text()
    assert journal.count('"finished"') == 6


def test_shards_of_one_checkpoint(tmp_path: Path) -> None:
    """They are those of one process, although an actor is killed while it writes one."""
    source, folder = tmp_path / "deit.pth", tmp_path / "out"
    porter.init(shard_runs.VARIANT, source)
    reference = shard_runs.whole(source, tmp_path / "whole")
    parts = folder / f".{shard_runs.NAME}.porter-parts"
    parts.mkdir(parents=True)
    made = shard_runs.Made(parts)
    killed: list[int] = []

    def kill() -> None:
        for _ in range(12_000):
            if made.shards() >= 5:
                break
            time.sleep(0.005)
        for pid in actors(b"ray::ShardActor"):
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    thread = threading.Thread(target=kill)
    thread.start()
    porter.convert(
        shard_runs.VARIANT, source, folder / shard_runs.NAME, to="safetensors:hf",
        max_shard_size=shard_runs.SIZE, verify=False, pool=RayShards(None, 1),
    )  # fmt: skip
    thread.join()
    assert killed
    assert shard_runs.content(folder) == reference
    assert made.shards() - sum("-of-" in name for name in reference) <= len(killed)


def test_shards_at_an_address(tmp_path: Path, bucket: Any) -> None:
    """Machines that share no folder send them to a bucket."""
    source = tmp_path / "s.npz"
    np.savez(source, **{f"w{i}": np.full((100, 100), i, np.float32) for i in range(6)})
    (tmp_path / "one").mkdir()
    for folder, pool in ((f"{tmp_path}/one", None), ("s3://models/out", RayShards(None, 1))):
        porter.repack(source, f"{folder}/x.safetensors", max_shard_size=90_000, pool=pool)
    bucket.invalidate_cache()
    found = {key.rpartition("/")[2]: bucket.cat_file(key) for key in bucket.find("models/out")}
    assert found == shard_runs.content(tmp_path / "one")


def test_cluster_that_is_not_there(tmp_path: Path) -> None:
    """One line, and nothing is run."""
    with pytest.raises(SystemFault, match="no Ray cluster there"):
        RayPool("127.0.0.1:1", 1).run([], lambda job: None, lambda job, result: None)
