"""Two commands do not write to one address at a time; one that was killed is no hindrance."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

import porter
from porter.errors import SystemFault, UsageError
from porter.remote import lock
from porter.remote.address import address
from porter.remote.lock import AddressLock
from porter.remote.upload import Upload

TARGET = "s3://models/out/x.safetensors"
LOCKS = "models/out/.x.safetensors.porter-lock"
OWNER = {"host": "far", "pid": 7, "machine": "another", "started": "1"}


def stored(bucket: Any) -> dict[str, bytes]:
    """Return {name: bytes} of all that is in the folder of the output."""
    bucket.invalidate_cache()
    return {
        key.removeprefix("models/out/"): bucket.cat_file(key) for key in bucket.find("models/out")
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkpoint."""
    path = tmp_path / "source.safetensors"
    path.write_bytes(save({f"w{i:02d}": np.full((100, 100), i, np.float32) for i in range(12)}))
    return path


def command(source: Path, *options: str) -> list[str]:
    return [
        sys.executable,
        "-P",
        "-m",
        "porter",
        "repack",
        str(source),
        "-q",
        "-o",
        TARGET,
        *options,
    ]


def begun(bucket: Any, process: subprocess.Popen[bytes]) -> None:
    """Wait until a command has the lock."""
    for _ in range(3000):
        bucket.invalidate_cache()
        if bucket.find(LOCKS) or process.poll() is not None:
            break
        time.sleep(0.01)
    assert bucket.find(LOCKS)


@pytest.mark.parametrize("shards", [["--max-shard-size", "41KB"], []])
def test_the_second_of_two_commands_is_refused(
    shards: list[str], bucket: Any, source: Path, tmp_path: Path
) -> None:
    """By one line, while the first goes on as if nothing was."""
    slow, go = tmp_path / "slow", tmp_path / "go"
    slow.mkdir()
    (slow / "sitecustomize.py").write_text(
        "import os, s3fs, time\nreal = s3fs.S3FileSystem.put_file\n"
        "def put_file(*args, **more):\n"
        f"    while not os.path.exists({str(go)!r}):\n        time.sleep(0.05)\n"
        "    real(*args, **more)\n"
        "s3fs.S3FileSystem.put_file = put_file\n"
    )
    first = subprocess.Popen(command(source, *shards), env={**os.environ, "PYTHONPATH": str(slow)})
    begun(bucket, first)
    other = source.with_name("other.safetensors")
    other.write_bytes(save({"w": np.ones((300, 300), "f4")}))
    second = subprocess.run(
        command(other, *shards, "--force"), stderr=subprocess.PIPE, text=True, check=False
    )
    go.touch()
    assert second.returncode == 3
    (line,) = second.stderr.splitlines()
    assert f"{TARGET}: is being written by another command (process {first.pid} on " in line
    assert first.wait(60) == 0
    end = f"{TARGET}.index.json" if shards else TARGET
    assert porter.diff(source, end).equal
    assert not [name for name in stored(bucket) if name.startswith(".")]


def test_commands_that_begin_at_the_same_moment(bucket: Any, source: Path) -> None:
    """Each is done or refused, and the output is that of one of them."""
    sources = []
    for number in range(3):
        path = source.with_name(f"{number}.safetensors")
        path.write_bytes(save({f"w{i}": np.full((99, 99), number, "f4") for i in range(9)}))
        sources.append(path)
    processes = [
        subprocess.Popen(command(path, "--force", "--max-shard-size", "40KB"), stderr=-3)
        for path in sources
    ]
    codes = [process.wait(120) for process in processes]
    assert set(codes) <= {0, 3}
    assert 0 in codes
    same = [porter.diff(path, f"{TARGET}.index.json").equal for path in sources]
    assert sum(same) == 1
    assert codes[same.index(True)] == 0
    assert len(stored(bucket)) == 11


def left(bucket: Any, **changes: object) -> None:
    """Leave the lock of a command."""
    bucket.pipe_file(f"{LOCKS}/0.json", json.dumps({**OWNER, **changes}).encode())


def test_a_lock_of_a_command_that_was_killed(
    bucket: Any, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On this machine it is seen at once, on another when it was not renewed for long."""
    monkeypatch.setattr(lock, "_FOR_TRIES", -9.0)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left(bucket, pid=gone.pid, machine=lock._machine())
    porter.repack(source, TARGET)
    assert not bucket.find(LOCKS)
    left(bucket)
    with pytest.raises(SystemFault, match=r"process 7 on far, last seen \d+ s ago.* in \d+ s"):
        porter.repack(source, TARGET, force=True)
    real = bucket.modified
    monkeypatch.setattr(
        bucket, "modified", lambda url: real(url) - timedelta(seconds=301) * url.endswith("/0.json")
    )
    porter.repack(source, TARGET, force=True)
    assert not bucket.find(LOCKS)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"pid": [], "machine": 1}'])
def test_a_lock_with_strange_content_counts(
    content: bytes, bucket: Any, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is somebody's, until it expires."""
    monkeypatch.setattr(lock, "_FOR_TRIES", -9.0)
    bucket.pipe_file(f"{LOCKS}/0.json", content)
    with pytest.raises(SystemFault, match="is being written by another command"):
        porter.repack(source, TARGET)
    assert set(stored(bucket)) == {".x.safetensors.porter-lock/0.json"}


def test_a_command_that_slept_writes_nothing_over(
    bucket: Any, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When its lock has expired and is gone, another command has written meanwhile."""
    real = Upload.send

    def send(self: Upload, *args: Any) -> Any:
        assert self._lock is not None
        monkeypatch.setattr(Upload, "send", real)
        monkeypatch.setattr(lock, "_clock", lambda: time.monotonic() + 1e9)
        if is_taken:
            self._lock._remove(self._lock._name)
            bucket.pipe_file("models/out/x.safetensors", b"of others")
        return self.send(*args)

    for is_taken in (True, False):
        monkeypatch.setattr(Upload, "send", send)
        if is_taken:
            with pytest.raises(SystemFault, match="is another command's now"):
                porter.repack(source, TARGET, force=True)
            assert stored(bucket) == {"x.safetensors": b"of others"}
        else:
            porter.repack(source, TARGET, force=True)
            assert porter.diff(source, TARGET).equal
        monkeypatch.undo()


def test_a_lock_is_renewed(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the command goes on, and not after it."""
    monkeypatch.setattr(lock, "RENEWED", 0.02)
    held = AddressLock(address(TARGET), bucket)
    held.take()
    writes = []
    real = bucket.pipe_file
    monkeypatch.setattr(bucket, "pipe_file", lambda *pair: (writes.append(pair), real(*pair)))
    for _ in range(1000):
        if len(writes) > 2:
            break
        time.sleep(0.02)
    held.release()
    assert len(writes) > 2
    count = len(writes)
    time.sleep(0.1)
    assert len(writes) == count
    assert not bucket.find(LOCKS)


def test_a_file_that_came_meanwhile_stays(
    bucket: Any, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs that know nothing of the lock do not lose what they wrote, nor mix with it."""
    real = Upload.send

    def send(self: Upload, *args: Any) -> Any:
        bucket.pipe_file("models/out/x.safetensors", b"of others")
        return real(self, *args)

    monkeypatch.setattr(Upload, "send", send)
    with pytest.raises(UsageError, match="came into being meanwhile; --force"):
        porter.repack(source, TARGET)
    assert stored(bucket) == {"x.safetensors": b"of others"}


def test_a_shard_that_was_replaced_after_it_was_sent(
    bucket: Any, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index is not written over something else; the same command again sends it once more."""
    key = "models/out/x-00002-of-00012.safetensors"
    real, sent = bucket.put_file, []

    def put_file(path: str, url: str) -> None:
        real(path, url)
        sent.append(url)
        if "00003" in url:
            bucket.pipe_file(key, b"x" * bucket.info(key)["size"])

    monkeypatch.setattr(bucket, "put_file", put_file)
    with pytest.raises(SystemFault, match=r"00002.*was replaced by another program"):
        porter.repack(source, TARGET, max_shard_size=41_000)
    assert "x.safetensors.index.json" not in stored(bucket)
    sent.clear()
    porter.repack(source, TARGET, max_shard_size=41_000)
    assert porter.diff(source, f"{TARGET}.index.json").equal
    assert [url for url in sent if "-of-" in url] == [f"s3://{key}"]


def test_nothing_is_locked_to_plan(bucket: Any, tmp_path: Path) -> None:
    """A dry run writes nothing and may be made meanwhile."""
    porter.init("deit-tiny-224", tmp_path / "d.pth")
    left(bucket)
    done = porter.convert(
        "deit-tiny-224", tmp_path / "d.pth", TARGET, to="safetensors:hf", dry_run=True
    )
    assert done.output == TARGET
    assert set(stored(bucket)) == {".x.safetensors.porter-lock/0.json"}


def test_a_whole_bucket_is_locked_inside(bucket: Any, tmp_path: Path) -> None:
    """There is nothing next to it."""
    assert lock._folder(address("s3://models/")) == "s3://models/.models.porter-lock"
    assert lock._folder(address("s3://models/out/")) == "s3://models/.out.porter-lock"
