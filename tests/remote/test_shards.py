"""Shards of an output in a bucket are sent by the processes that write them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from safetensors.numpy import save

import porter
from porter.codecs.sharded.folder import Folder
from porter.errors import InputError, PorterError, SystemFault, UsageError
from porter.fleet.shards import Local
from porter.remote.bucket import Bucket
from tests.fleet.shard_runs import VARIANT, children, content

SHARDS = {f"w{i:02d}": np.full((100, 100), i, np.float32) for i in range(12)}
LIMIT = 45_000
TARGET = "s3://models/out/x.safetensors"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkpoint that is cut into twelve shards."""
    path = tmp_path / "source.safetensors"
    path.write_bytes(save(SHARDS))
    return path


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing stays in the folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield
    assert not list(folder.glob("porter-*"))


def stored(bucket: Any, folder: str = "models/out") -> dict[str, bytes]:
    """Return {name: bytes} of all that is in a folder of the bucket, hidden files too."""
    bucket.invalidate_cache()
    return {key.removeprefix(f"{folder}/"): bucket.cat_file(key) for key in bucket.find(folder)}


def unfinished(bucket: Any) -> list[str]:
    """Return the keys of uploads that were begun and neither completed nor given up."""
    found = bucket.call_s3("list_multipart_uploads", Bucket="models").get("Uploads", [])
    return [row["Key"] for row in found]


def begin_upload(bucket: Any, key: str) -> None:
    """Leave what a process leaves that is killed while it sends."""
    made = bucket.call_s3("create_multipart_upload", Bucket="models", Key=key)
    bucket.call_s3(
        "upload_part", Bucket="models", Key=key, PartNumber=1, UploadId=made["UploadId"], Body=b"x"
    )
    assert key in unfinished(bucket)


def shards(source: Path, target: str | Path = TARGET, **more: Any) -> Any:
    return porter.repack(source, target, max_shard_size=LIMIT, **more)


@pytest.fixture
def reference(source: Path, tmp_path: Path) -> dict[str, bytes]:
    """What is written to a folder of this machine."""
    (tmp_path / "one").mkdir()
    shards(source, tmp_path / "one" / "x.safetensors")
    return content(tmp_path / "one")


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_as_on_this_machine(
    workers: int, bucket: Any, source: Path, reference: dict[str, bytes]
) -> None:
    """Shards, index and record are those of a folder; nothing else is there in the end."""
    done = shards(source, pool=Local(workers) if workers else None)
    assert stored(bucket) == reference
    assert len(reference) == 14
    assert done.written.path == f"{TARGET}.index.json"
    assert done.written.record == f"{TARGET}.index.json.porter.json"
    assert {url.rpartition("/")[2] for url in done.written.files} == set(reference)
    assert porter.diff(source, done.written.path).equal


def test_a_conversion_is_proven(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors that are made of parts in several shards are mapped back, too."""
    monkeypatch.setattr("porter.commands.conversion.outputs.How.proven", lambda _, done, __: done)
    porter.init(VARIANT, tmp_path / "deit.pth")
    found = []
    for place, pool in ((f"{tmp_path}/here", None), ("s3://models/out", Local(2))):
        os.makedirs(tmp_path / "here", exist_ok=True)
        found.append(
            porter.convert(
                VARIANT, tmp_path / "deit.pth", f"{place}/m.safetensors", to="safetensors:hf",
                max_shard_size="900KB", pool=pool,
            )
        )  # fmt: skip
    here, there = found
    assert there.weights == here.weights
    assert there.weights is not None
    assert there.weights.holds
    assert there.weights.compared == 152
    assert stored(bucket) == content(tmp_path / "here")


@pytest.mark.parametrize(("size", "workers"), [(None, 0), ("9MB", 2)])
def test_a_folder_for_transformers(
    size: str | None, workers: int, bucket: Any, tmp_path: Path
) -> None:
    """The address is that of a folder, with a slash or without; the index comes last."""
    porter.init(VARIANT, tmp_path / "deit.pth")
    given = (VARIANT, tmp_path / "deit.pth")
    porter.convert(*given, tmp_path / "out", to="hf", verify=False, max_shard_size=size)
    pool = Local(workers) if workers else None
    slash = "" if pool else "/"
    address = f"s3://models/out{slash}"
    for force in (False, True):
        done = porter.convert(
            *given, address, to="hf", verify=False, max_shard_size=size, pool=pool, force=force
        )
        assert stored(bucket) == content(tmp_path / "out")
    assert done.written is not None
    assert {url.rpartition("/")[2] for url in done.written.files} == set(stored(bucket))
    assert done.written.path.startswith("s3://models/out")
    with pytest.raises(UsageError, match="exists already; --force"):
        porter.convert(*given, address, to="hf", verify=False, max_shard_size=size)


def test_rounded_weights_are_proven_by_those_that_write_them(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The output is not fetched again for it, but for the headers of its shards."""
    monkeypatch.setattr("porter.commands.conversion.outputs.How.proven", lambda _, done, __: done)
    porter.init(VARIANT, tmp_path / "deit.pth")
    real, fetched = bucket.cat_file, []

    def cat_file(path: str, start: int | None = None, end: int | None = None) -> bytes:
        data: bytes = real(path, start=start, end=end)
        fetched.append(len(data))
        return data

    monkeypatch.setattr(bucket, "cat_file", cat_file)
    done = porter.convert(
        VARIANT, tmp_path / "deit.pth", "s3://models/out/m.safetensors", to="safetensors:hf",
        max_shard_size="3MB", dtype="fp16", pool=Local(1),
    )  # fmt: skip
    assert done.weights is not None
    assert done.weights.holds
    assert done.weights.compared == 152
    assert sum(fetched) < 500_000


def test_a_file_that_is_there_stays(bucket: Any, source: Path) -> None:
    """One shard of that name is enough to be refused, by name."""
    bucket.pipe_file("models/out/x-00003-of-00012.safetensors", b"precious")
    with pytest.raises(UsageError, match=r"x-00003-of-00012.*exists already; --force"):
        shards(source)
    assert stored(bucket) == {"x-00003-of-00012.safetensors": b"precious"}


def test_the_old_checkpoint_is_whole_until_the_new_one_is(
    bucket: Any, source: Path, reference: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replacement that fails in the middle changes nothing; one that succeeds leaves no shard."""
    porter.repack(source, TARGET, max_shard_size=2 * LIMIT)
    before = stored(bucket)
    real, sent = bucket.put_file, []

    def put_file(path: str, url: str) -> None:
        if len(sent) == 5:
            raise OSError("the line is cut")
        sent.append(url)
        real(path, url)

    monkeypatch.setattr(bucket, "put_file", put_file)
    with pytest.raises(SystemFault, match="the line is cut"):
        shards(source, force=True)
    now = stored(bucket)
    assert {name: now[name] for name in before} == before
    assert all(name.startswith(".x.safetensors.porter-parts/") for name in set(now) - set(before))
    monkeypatch.setattr(bucket, "put_file", lambda *pair: (sent.append(pair[1]), real(*pair)))
    shards(source, force=True)
    assert stored(bucket) == reference
    assert len(set(sent)) == len(sent) == 14  # Those that were sent are kept.


def test_a_replacement_that_stops_while_shards_get_their_names(
    bucket: Any, source: Path, reference: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither index is there then; the same run again names the rest."""
    porter.repack(source, TARGET, max_shard_size=2 * LIMIT)
    real, named = bucket.mv, []

    def mv(old: str, new: str) -> None:
        named.append(new)
        if len(named) == 5:
            raise OSError("the line is cut")
        real(old, new)

    monkeypatch.setattr(bucket, "mv", mv)
    with pytest.raises(SystemFault, match="the line is cut"):
        shards(source, force=True)
    assert f"{TARGET.rpartition('/')[2]}.index.json" not in stored(bucket)
    shards(source, force=True)
    assert stored(bucket) == reference


@pytest.mark.parametrize("change", ["none", "other bytes", "cut", "gone"])
def test_resumed_shards_are_looked_at(
    change: str, bucket: Any, source: Path, reference: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A shard is kept if the store has what was sent, and sent again if not."""
    real, sent = bucket.put_file, []

    def put_file(path: str, url: str) -> None:
        if url.endswith(".json"):
            raise OSError("the line is cut")
        real(path, url)

    monkeypatch.setattr(bucket, "put_file", put_file)
    with pytest.raises(SystemFault):
        shards(source)
    key = "models/out/x-00004-of-00012.safetensors"
    data = bucket.cat_file(key)
    changed = {"other bytes": data[:-1] + b"\1", "cut": data[:-1]}.get(change)
    if changed is not None:
        bucket.pipe_file(key, changed)
    elif change == "gone":
        bucket.rm_file(key)
    monkeypatch.setattr(bucket, "put_file", lambda *pair: (sent.append(pair[1]), real(*pair)))
    shards(source)
    assert stored(bucket) == reference
    assert [url for url in sent if not url.endswith(".json")] == [f"s3://{key}"] * (
        change != "none"
    )


def test_a_changed_source_is_not_gone_on_with(
    bucket: Any, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tag of a source at an address is part of what two runs have in common."""
    bucket.pipe_file("models/s.safetensors", save(SHARDS))
    monkeypatch.setattr("porter.remote.bucket.others", lambda *a: (_ for _ in ()).throw(OSError()))
    with pytest.raises(SystemFault):
        shards("s3://models/s.safetensors")  # type: ignore[arg-type]
    monkeypatch.undo()
    bucket.pipe_file("models/s.safetensors", save({**SHARDS, "w00": np.ones((100, 100), "f4")}))
    with pytest.raises(UsageError, match="an input that has changed"):
        shards("s3://models/s.safetensors")  # type: ignore[arg-type]


def test_a_refused_source_leaves_nothing(bucket: Any, source: Path) -> None:
    """Shards that were sent before a damage was found are removed, as in a folder."""
    (bad,) = source.parent.glob("source.safetensors")
    porter.repack(bad, source.parent / "d.pth")
    data = bytearray((source.parent / "d.pth").read_bytes())
    data[len(data) * 3 // 4] ^= 1
    (source.parent / "d.pth").write_bytes(data)
    with pytest.raises(InputError):
        shards(source.parent / "d.pth", pool=Local(1))
    assert stored(bucket) == {}


def test_the_input_is_not_replaced(bucket: Any, source: Path) -> None:
    """A checkpoint in shards is not written over while it is read."""
    shards(source)
    with pytest.raises(UsageError, match="is the input itself"):
        shards(f"{TARGET}.index.json", force=True)  # type: ignore[arg-type]
    assert len(stored(bucket)) == 14


def test_memory_is_of_one_process(source: Path) -> None:
    """Other processes would write into nothing."""
    with pytest.raises(UsageError, match="is of one process"):
        shards(source, "memory://shards/x.safetensors", pool=Local(2))
    shards(source, "memory://shards/x.safetensors")
    assert porter.diff(source, "memory://shards/x.safetensors.index.json").equal
    fsspec.filesystem("memory").rm("/shards", recursive=True)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are listed in /proc")
@pytest.mark.parametrize("who", ["worker", "driver"])
def test_killed(who: str, bucket: Any, tmp_path: Path) -> None:
    """Nothing is sent again but what was being sent, and no upload stays unfinished."""
    bucket.call_s3(
        "put_bucket_versioning", Bucket="models", VersioningConfiguration={"Status": "Enabled"}
    )
    many = {f"w{i:02d}": np.full((200, 100), i, np.float32) for i in range(20)}
    source = tmp_path / "many.safetensors"
    source.write_bytes(save(many))
    command = [
        sys.executable, "-P", "-m", "porter", "repack", str(source), "-o", TARGET, "-q",
        "--max-shard-size", "90KB", "--workers", "2",
    ]  # fmt: skip
    process = subprocess.Popen(command)
    for _ in range(3000):
        bucket.invalidate_cache()
        if sum("/x-" in key for key in bucket.find("models/out")) >= 5:
            break
        time.sleep(0.01)
    workers = children(process.pid)
    begin_upload(bucket, "out/x-00019-of-00020.safetensors")
    if who == "driver":
        process.kill()
        process.wait()
        subprocess.run(command, check=True)
    else:
        os.kill(workers[0], signal.SIGKILL)
        assert process.wait(120) == 0
    (tmp_path / "one").mkdir()
    porter.repack(source, tmp_path / "one" / "x.safetensors", max_shard_size="90KB")
    assert stored(bucket) == content(tmp_path / "one")
    assert unfinished(bucket) == []
    rows = bucket.call_s3("list_object_versions", Bucket="models", Prefix="out/x-")["Versions"]
    assert len(rows) <= 20 + (1 if who == "worker" else 2)
    assert max(Counter(row["Key"] for row in rows).values()) <= 2


class Killed(BaseException):
    """What ends a command at once."""


@pytest.mark.parametrize("replaces", [False, True])
@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_killed_when_all_is_there(
    place: str, replaces: bool, bucket: Any, source: Path, reference: dict[str, bytes],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The same command again sees that the output is its own, removes the journal, and is done."""
    kind: Any = {"folder": Folder, "bucket": Bucket}[place]
    folder = tmp_path / "here"
    folder.mkdir()
    target = {"folder": folder / "x.safetensors", "bucket": TARGET}[place]

    def there() -> dict[str, bytes]:
        return content(folder) if place == "folder" else stored(bucket)

    if replaces:
        porter.repack(source, target, max_shard_size=2 * LIMIT)
    monkeypatch.setattr(kind, "remove", lambda self: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        shards(source, target, force=replaces)
    monkeypatch.undo()
    assert {name: data for name, data in there().items() if name in reference} == reference
    assert len(there()) == 15
    other = source.with_name("other.safetensors")
    other.write_bytes(save({**SHARDS, "w00": np.ones((100, 100), "f4")}))
    with pytest.raises(UsageError, match="exists already; --force replaces it"):
        shards(other, target)
    again: list[tuple[str, str]] = []
    put_file, mv = bucket.put_file, bucket.mv
    monkeypatch.setattr(bucket, "put_file", lambda *pair: (again.append(pair), put_file(*pair)))
    monkeypatch.setattr(bucket, "mv", lambda *pair: (again.append(pair), mv(*pair)))
    shards(source, target)
    assert there() == reference
    assert not [pair for pair in again if not pair[1].endswith(".json")]


def test_uploads_of_others_stay(bucket: Any, source: Path) -> None:
    """Only what is unfinished of this output's own shards is given up."""
    begin_upload(bucket, "out/x-00001-of-00012.safetensors")
    begin_upload(bucket, "out/x-00001-of-00012.safetensors.bak")
    begin_upload(bucket, "other/x-00001-of-00012.safetensors")
    shards(source)
    assert set(unfinished(bucket)) == {
        "out/x-00001-of-00012.safetensors.bak", "other/x-00001-of-00012.safetensors"
    }  # fmt: skip
    for row in bucket.call_s3("list_multipart_uploads", Bucket="models")["Uploads"]:
        bucket.call_s3(
            "abort_multipart_upload", Bucket="models", Key=row["Key"], UploadId=row["UploadId"]
        )


def test_no_permission_is_one_line(
    bucket: Any, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that expire in the middle leave what was sent, for the same run with new keys."""
    real = bucket.put_file

    def put_file(path: str, url: str) -> None:
        if "00003" in url:
            raise PermissionError("ExpiredToken of secret-of-the-bucket")
        real(path, url)

    monkeypatch.setattr(bucket, "put_file", put_file)
    with pytest.raises(PorterError, match="may have expired") as caught:
        shards(source)
    assert isinstance(caught.value, SystemFault)
    assert "secret" not in str(caught.value)
    assert "x-00002-of-00012.safetensors" in stored(bucket)
