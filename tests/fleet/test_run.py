"""A manifest is run to its end, whatever fails or is killed on the way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import onnx
import pytest
from click.testing import CliRunner

import porter
from porter.cli import cli
from porter.errors import InputError, SystemFault, UsageError
from porter.fleet import reports
from porter.fleet.job import Result
from porter.fleet.journal import Journal
from porter.fleet.run import fleet, plan
from porter.fleet.summary import Summary
from tests.buckets import bucket, server
from tests.frameworks.test_process import alive

__all__ = ["bucket", "server"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded checkpoint."""
    path = tmp_path_factory.mktemp("source") / "deit.pth"
    porter.init("deit-tiny-224", path)
    return path


def manifest(folder: Path, source: Path, count: int, more: str = "") -> Path:
    """Write a manifest of conversions without forward proof."""
    path = folder / "jobs.toml"
    path.write_text(f"""
[defaults]
from = "torch"
to = "paddle"
verify = false
sync = false
arch = "deit-tiny-224"
input = "{source}"
[[jobs]]
number = {list(range(count))}
output = "out/{{number}}.pdparams"
{more}
""")
    return path


def outputs(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all outputs."""
    return {path.name: path.read_bytes() for path in sorted((folder / "out").glob("*.pdparams"))}


def test_proofs_use_the_same_frameworks(source: Path, tmp_path: Path) -> None:
    """The second proof starts no framework: it takes a fraction of the time of the first."""
    path = manifest(tmp_path, source, 2, 'verify = true\npreset = "default"')
    path.write_text(path.read_text().replace("verify = false\n", ""))
    summary = fleet(path, workers=1)
    assert [result.status for result in summary.results] == ["passed", "passed"]
    first, second = summary.results
    assert first.error == second.error
    assert first.tensors == 152
    assert summary.exit_code == 0
    page = Path(summary.reports, "0.pdparams.html").read_text()
    assert "deit-tiny-224" in page


def test_options_of_onnx_are_carried_out(source: Path, tmp_path: Path) -> None:
    """A job's operator set and batch are those of its file."""
    path = manifest(tmp_path, source, 1, "opset = 17\nbatch = 2")
    path.write_text(path.read_text().replace(".pdparams", ".onnx").replace('"paddle"', '"onnx"'))
    assert fleet(path, workers=1).exit_code == 0
    model = onnx.load(tmp_path / "out" / "0.onnx")
    assert model.opset_import[0].version == 17
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2


def test_failing_job_does_not_stop_the_others(source: Path, tmp_path: Path) -> None:
    """It is one row of the summary, and the exit code is 1."""
    path = manifest(tmp_path, source, 2)
    path.write_text(
        path.read_text() + '[[jobs]]\narch = "deit-small-224"\noutput = "bad.pdparams"\n'
    )
    seen: list[str] = []
    summary = fleet(path, workers=2, watch=lambda result, done, total: seen.append(result.name))
    assert [result.status for result in summary.results] == ["converted", "converted", "refused"]
    assert "does not fit deit-small-224" in summary.results[2].message
    assert sorted(seen) == ["0.pdparams", "1.pdparams", "bad.pdparams"]
    assert summary.exit_code == 1
    assert not (tmp_path / "bad.pdparams").exists()
    done = CliRunner().invoke(cli, ["fleet", str(path), "--quiet", "--resume"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("bad.pdparams: ")


def test_finished_jobs_are_not_run_again(source: Path, tmp_path: Path) -> None:
    """Unless their output was altered or removed, or they are asked to do something else."""
    path = manifest(tmp_path, source, 4)
    first = fleet(path, workers=2)
    with pytest.raises(UsageError, match="exists already; force = true replaces it, --resume"):
        fleet(path)
    whole = outputs(tmp_path)
    run: list[str] = []

    def again() -> Summary:
        run.clear()
        return fleet(path, resume=True, watch=lambda result, *_: run.append(result.name))

    assert again() == first
    assert run == []
    (tmp_path / "out/1.pdparams").unlink()
    altered = bytearray(whole["2.pdparams"])
    altered[1_000_000] ^= 1
    (tmp_path / "out/2.pdparams").write_bytes(altered)
    again()
    assert sorted(run) == ["1.pdparams", "2.pdparams"]
    assert outputs(tmp_path) == whole
    path.write_text(
        path.read_text().replace("sync = false", "sync = false\nrecord = false\nforce = true")
    )
    again()
    assert len(run) == 4


def test_altered_shard_is_written_again(source: Path, tmp_path: Path) -> None:
    """Of an output in shards all files are compared, with the record or without."""
    path = manifest(tmp_path, source, 1, 'to = "safetensors"\nmax-shard-size = "8MB"')
    path.write_text(path.read_text().replace(".pdparams", ".safetensors"))
    fleet(path)
    run: list[str] = []
    fleet(path, resume=True, watch=lambda result, *_: run.append(result.name))
    assert run == []
    shard = sorted((tmp_path / "out").glob("*-of-*.safetensors"))[1]
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(data)
    fleet(path, resume=True, watch=lambda result, *_: run.append(result.name))
    assert run == ["0.safetensors"]


def started(path: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start the command in a process of its own."""
    argv = [sys.executable, "-P", "-m", "porter", "fleet", str(path), "--workers", "2", *options]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(path: Path, rows: int) -> None:
    """Wait until the journal has so many results."""
    for _ in range(3000):
        if path.exists() and path.read_text().count('"finished"') >= rows:
            return
        time.sleep(0.01)
    raise AssertionError(path)


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [int(p) for thread in threads for p in (thread / "children").read_text().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="children are listed in /proc")
def test_workers_are_copies_of_the_command(source: Path, tmp_path: Path) -> None:
    """They have its command line: a new interpreter has another."""
    process = started(manifest(tmp_path, source, 12))
    wait_for(tmp_path / ".jobs.toml.fleet/journal.jsonl", 1)
    pids = [process.pid, *children(process.pid)]
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids]
    assert len(commands) == 3
    assert len({*commands}) == 1
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err


@pytest.mark.skipif(sys.platform != "linux", reason="children are listed in /proc")
def test_killed_worker_is_replaced(source: Path, tmp_path: Path) -> None:
    """Its job is begun once more; nothing is wrong or left over."""
    path = manifest(tmp_path, source, 12)
    process = started(path)
    journal = tmp_path / ".jobs.toml.fleet/journal.jsonl"
    wait_for(journal, 2)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    check_complete(tmp_path, 12)
    assert journal.read_text().count('"begun"') <= 13


@pytest.mark.skipif(sys.platform != "linux", reason="children are listed in /proc")
@pytest.mark.parametrize("finished", [0, 3])
def test_killed_run_is_resumed(source: Path, tmp_path: Path, finished: int) -> None:
    """At most the jobs that were running are begun again; the outputs are byte-identical."""
    path = manifest(tmp_path, source, 8)
    process = started(path)
    journal = tmp_path / ".jobs.toml.fleet/journal.jsonl"
    wait_for(journal, finished)
    process.kill()
    process.communicate(timeout=60)
    done = journal.read_text().count('"finished"') if journal.exists() else 0
    if done:
        with pytest.raises(UsageError, match="exists already"):
            fleet(path)
    again = started(path, "--resume")
    _, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    check_complete(tmp_path, 8)
    begun = [json.loads(line).get("begun") for line in journal.read_text().splitlines()]
    assert len([name for name in begun if name]) <= 8 + 2


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that they have."""
    found = children(pid)
    return [*found, *(each for child in found for each in descendants(child))]


@pytest.mark.skipif(sys.platform != "linux", reason="children are listed in /proc")
def test_frameworks_of_several_workers_are_forked(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From one process for each framework; all end with a driver that is killed."""
    monkeypatch.setenv("TMPDIR", os.fspath(tmp_path))  # What is left there is removed.
    path = manifest(tmp_path, source, 8)
    path.write_text(path.read_text().replace("verify = false\n", ""))
    process = started(path)
    wait_for(tmp_path / ".jobs.toml.fleet/journal.jsonl", 2)
    pids = descendants(process.pid)
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_text().split("\0") for pid in pids}
    servers = [
        pid for pid in children(process.pid) if commands[pid][3].endswith("frameworks.worker")
    ]
    assert sorted(commands[pid][4] for pid in servers) == ["paddle", "torch"]
    assert [len(children(pid)) for pid in servers] == [2, 2]
    assert len(pids) == 2 + 2 + 4
    process.kill()
    process.communicate(timeout=60)
    for _ in range(200):
        if not any(map(alive, pids)):
            return
        time.sleep(0.05)
    raise AssertionError(pids)


def check_complete(folder: Path, count: int) -> None:
    """Compare all outputs with one another, and look for what must not be left over."""
    files = outputs(folder)
    assert len(files) == count
    assert len(set(files.values())) == 1
    expected = {f"{n}.pdparams{s}" for n in range(count) for s in ("", ".porter.json")}
    assert {path.name for path in (folder / "out").iterdir() if path.name[0] != "."} == expected
    hidden = [p.name for p in (folder / "out").iterdir() if p.name[0] == "."]
    assert not [name for name in hidden if not name.endswith(".lock")]


def test_two_runs_of_one_manifest(source: Path, tmp_path: Path) -> None:
    """The second is refused while the first goes on."""
    path = manifest(tmp_path, source, 1)
    journal = Journal(str(path))
    with (
        journal.opened(resume=False),
        pytest.raises(SystemFault, match="another run of it goes on"),
    ):
        fleet(path)


def test_plan_writes_nothing(source: Path, tmp_path: Path) -> None:
    """A dry run has bytes and times."""
    path = manifest(tmp_path, source, 3)
    rows = plan(path)
    assert [row.nbytes for row in rows] == [source.stat().st_size] * 3
    assert all(row.seconds > 0 for row in rows)
    assert {p.name for p in tmp_path.iterdir()} == {"jobs.toml"}


RESULTS = (
    Result(
        "a", "passed", architecture="x", sides="torch → paddle", error=1.5e-6, share=0.1, seconds=2
    ),
    Result("b|<b>", "failed", "::error:: <i>no</i>", error=3e-3, share=20.0, seconds=1),
    Result("c", "refused", "no such file"),
    Result("d", "not made", "paddle is not installed"),
)


def test_reasons_are_wrapped_on_the_page() -> None:
    """Other cells are one line; a long reason would push the columns after it off the page."""
    text = reports.render(Summary("jobs.toml", RESULTS), ".html")
    assert '<span class="why">no such file</span>' in text
    assert re.search(r"\.why {[^}]*white-space: normal", text)


@pytest.mark.parametrize("suffix", reports.SUFFIXES)
def test_reports_are_escaped(suffix: str) -> None:
    """Names and messages act neither on a page nor on a build's log."""
    text = reports.render(Summary("jobs.toml", RESULTS, {"a": 1.4e-6}), suffix)
    if suffix != ".json":
        assert "<i>" not in text.replace("\\<i>", "")
        assert "::error::" not in text
    if suffix == ".json":
        rows: Any = json.loads(text)
        assert rows["jobs"][0]["before"] == 1.4e-6
        assert rows["counts"] == {"passed": 1, "not made": 1, "failed": 1, "refused": 1}
    elif suffix == ".xml":
        suite = ElementTree.fromstring(text)
        kinds = [[child.tag for child in case] for case in suite]
        assert kinds == [[], ["failure"], ["error"], ["skipped"]]
        assert suite.get("time") == "3.000"
    elif suffix == ".badge.json":
        assert json.loads(text)["color"] == "red"
    else:
        assert "was 1.4e-06" in text


def test_baseline_is_a_summary(source: Path, tmp_path: Path) -> None:
    """Errors are compared with those of an earlier summary; another file is refused."""
    path = tmp_path / "s.json"
    path.write_text(reports.render(Summary("jobs.toml", RESULTS), ".json"))
    from porter.fleet.summary import read_baseline

    assert read_baseline(path) == {"a": 1.5e-6, "b|<b>": 3e-3}
    path.write_text('{"schema": "other"}')
    with pytest.raises(InputError, match="is not a summary of porter fleet"):
        fleet(manifest(tmp_path, source, 1), baseline=path)


@pytest.mark.parametrize(
    ("statuses", "code"),
    [(["passed", "converted"], 0), (["passed", "not made"], 3), (["not made", "refused"], 1)],
)
def test_exit_codes(statuses: list[str], code: int) -> None:
    """A failure counts more than what could not be made."""
    assert Summary("m", tuple(Result(s, s) for s in statuses)).exit_code == code


def test_jobs_read_and_write_addresses(
    source: Path, bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a bucket to it, in one file and in shards; what is gone from it is made again."""
    monkeypatch.chdir(tmp_path)
    bucket.put_file(str(source), "models/in/deit.pth")
    path = tmp_path / "jobs.toml"
    path.write_text("""
[defaults]
arch = "deit-tiny-224"
input = "s3://models/in/deit.pth"
verify = false
[[jobs]]
output = "s3://models/out/a.pdparams"
[[jobs]]
output = "s3://models/out/b.safetensors"
max-shard-size = "9MB"
[[jobs]]
output = "c.npz"
""")
    assert [p.nbytes for p in plan(path)] == [None, None, None]
    summary = fleet(path, workers=1)
    assert [result.status for result in summary.results] == ["converted"] * 3, summary.results
    bucket.invalidate_cache()
    assert sum("/b-0000" in key for key in bucket.find("models/out")) == 3
    assert {p.name for p in tmp_path.iterdir()} == {
        "jobs.toml", ".jobs.toml.fleet", "c.npz", "c.npz.porter.json"
    }  # fmt: skip
    seen: list[str] = []
    bucket.rm_file("models/out/a.pdparams")
    bucket.invalidate_cache()
    again = fleet(path, resume=True, workers=1, watch=lambda result, *_: seen.append(result.name))
    assert seen == ["a.pdparams"]
    assert [result.status for result in again.results] == ["converted"] * 3
