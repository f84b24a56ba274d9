"""One output whose shards other processes write is that of one process, whatever is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import porter
from porter.cli import cli
from porter.errors import InputError, SystemFault, UsageError
from porter.fleet.shards import Local
from porter.storage.tasks import Task, Work
from tests.fleet import shard_runs
from tests.fleet.shard_runs import children, content, kill

KEYWORDS: dict[str, Any] = {"sync": False, "verify": True}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded checkpoint."""
    path = tmp_path_factory.mktemp("source") / "deit.pth"
    porter.init(shard_runs.VARIANT, path)
    return path


@pytest.fixture(scope="module")
def reference(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process writes."""
    return shard_runs.whole(source, tmp_path_factory.mktemp("whole") / "out")


@pytest.fixture
def no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the forward proof out: only the weights are proven."""
    monkeypatch.setattr("porter.commands.conversion.outputs.How.proven", lambda _, done, __: done)


def convert(source: Path, folder: Path, to: str, **more: Any) -> porter.commands.convert.Conversion:
    folder.mkdir()
    return porter.convert(
        shard_runs.VARIANT, source, folder / f"m{'.bin' if to[0] == 't' else '.safetensors'}",
        to=to, max_shard_size="700KB", sync=False, **more,
    )  # fmt: skip


@pytest.mark.usefixtures("no_models")
@pytest.mark.parametrize(
    ("to", "more"),
    [("safetensors:hf", {}), ("torch:hf", {"digest": "sha256"}), ("torch", {"dtype": "fp16"})],
)
def test_the_same_as_one_process(
    to: str, more: dict[str, Any], source: Path, tmp_path: Path
) -> None:
    """Shards, index and record are the same bytes; proof of the weights and casts are the same."""
    one = convert(source, tmp_path / "one", to, **more)
    two = convert(source, tmp_path / "two", to, **more, pool=Local(2))
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert len(content(tmp_path / "two")) > 10
    assert one.weights == two.weights
    assert two.weights is not None
    assert two.weights.holds
    assert two.weights.compared == 152
    assert one.casts == two.casts


@pytest.mark.usefixtures("no_models")
def test_a_shard_that_does_not_map_back_fails_the_proof(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A digest that a worker took of one tensor, mapped back, decides over the whole proof."""
    run = Local.run

    def altered(self: Local, work: Work) -> None:
        def done(task: Task, row: dict[str, Any]) -> None:
            if "cls_token" in row.get("back", {}):
                row["back"]["cls_token"] = "xxh3-128:0"
            work.done(task, row)

        run(self, work._replace(done=done))

    monkeypatch.setattr(Local, "run", altered)
    outcome = convert(source, tmp_path / "out", "safetensors:hf", pool=Local(1))
    assert outcome.weights is not None
    assert outcome.weights.problems == ("cls_token has other values than the source",)


def test_repack(source: Path, tmp_path: Path) -> None:
    """The same holds for `repack`, by the command."""
    for name, options in (("one", []), ("two", ["--workers", "2"])):
        (tmp_path / name).mkdir()
        words = ["repack", str(source), "-o", str(tmp_path / name / "m.safetensors"), "--no-sync"]
        done = CliRunner().invoke(cli, [*words, "--max-shard-size", "4MB", *options])
        assert done.exit_code == 0, done.output
    assert content(tmp_path / "one") == content(tmp_path / "two")


linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are listed in /proc")


@linux
@pytest.mark.parametrize("killed", [False, True])
def test_a_folder_for_transformers(killed: bool, source: Path, tmp_path: Path) -> None:
    """Configuration, shards and index are those of one process; a run that is killed goes on."""
    words = [sys.executable, "-P", "-m", "porter", "convert", shard_runs.VARIANT, str(source), "-q",
             "--no-verify", "--to", "hf", "--max-shard-size", "700KB"]  # fmt: skip
    for name, options in (("one", []), ("two", ["--workers", "2"])):
        command = [*words, "-o", str(tmp_path / name), *options]
        if killed and options:
            parts = tmp_path / ".two.porter-folder" / ".model.safetensors.porter-parts"
            process = subprocess.Popen(command)
            while len(list(parts.glob("model-*"))) < 5:
                assert process.poll() is None
                time.sleep(0.005)
            process.kill()
            process.wait()
            kept = {path.name: path.stat().st_ino for path in parts.glob("model-*")}
        subprocess.run(command, check=True)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert {"config.json", "preprocessor_config.json"} < set(content(tmp_path / "two"))
    assert [path.name for path in tmp_path.iterdir() if path.name[0] == "."] == []
    if killed:
        again = [n for n, inode in kept.items() if (tmp_path / "two" / n).stat().st_ino != inode]
        assert len(again) <= 2


def test_workers_are_for_shards(source: Path, tmp_path: Path) -> None:
    """An option that would do nothing is refused."""
    with pytest.raises(UsageError, match="add --max-shard-size"):
        porter.convert(shard_runs.VARIANT, source, tmp_path / "a.pdparams", pool=Local(2))
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_a_worker_is_that_of_the_command(source: Path, tmp_path: Path) -> None:
    """A damaged source is refused by name, as by one process, and nothing is left over."""
    damaged = tmp_path / "deit.pth"
    data = bytearray(source.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    errors = []
    for pool in (None, Local(2)):
        with pytest.raises(InputError) as caught:
            convert(damaged, tmp_path / "out", "safetensors:hf", pool=pool)
        errors.append(str(caught.value))
        assert list((tmp_path / "out").iterdir()) == []
        (tmp_path / "out").rmdir()
    assert errors[0] == errors[1]


@linux
@pytest.mark.parametrize("begun", [1, 5])
@pytest.mark.parametrize("driver", [False, True])
def test_killed(
    driver: bool, begun: int, source: Path, reference: dict[str, bytes], tmp_path: Path
) -> None:
    """At most one shard is begun again for each process that was killed; the result is the same."""
    moment = shard_runs.after(begun, 0)
    assert kill(source, tmp_path / "out", reference, moment, driver=driver).hit


@linux
def test_worker_that_is_always_lost(source: Path, tmp_path: Path) -> None:
    """A task whose worker ends each time is given up, and said to be."""

    class Lost(Local):
        def begin(self, command: str, arguments: dict[str, Any]) -> None:
            super().begin(command, arguments)
            self.request["command"] = "nothing"

    with pytest.raises(SystemFault, match=r"source 1 was begun 3 times: its process ended with"):
        convert(source, tmp_path / "out", "safetensors:hf", verify=False, pool=Lost(1))
    assert children(os.getpid()) == []
