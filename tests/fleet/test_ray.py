"""The same jobs on Ray: a real cluster on this machine."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

import porter
from porter.errors import SystemFault
from porter.fleet.job import Result
from porter.fleet.on_ray import RayPool
from porter.fleet.run import fleet

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are listed in /proc")


def actors() -> list[int]:
    """Return the processes of the actors that run jobs."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdecimal() and b"ray::Actor" in (entry / "cmdline").read_bytes():
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


def test_cluster_that_is_not_there(tmp_path: Path) -> None:
    """One line, and nothing is run."""
    with pytest.raises(SystemFault, match="no Ray cluster there"):
        RayPool("127.0.0.1:1", 1).run([], lambda job: None, lambda job, result: None)
