"""Provenance: what an output says about itself, and every flipped bit that it tells."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from porter import codecs
from porter.cli import cli
from porter.codecs import check, record
from porter.errors import InputError, UsageError
from porter.storage.digests import digest_of, unknown
from porter.tensors.state_dict import StateDict

NAMES = ["m.safetensors", "m.pth", "m.pdparams", "m.npz"]
FORMAT = {".safetensors": "safetensors", ".pth": "torch", ".pdparams": "paddle", ".npz": "npz"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    arrays = {"a": np.arange(40.0).reshape(5, 8), "b": np.ones(3, np.float16), "e": np.zeros(0)}
    path = tmp_path / "source.npz"
    np.savez(path, **arrays)
    return path


def write(source: Path, name: str, **options: object) -> Path:
    target = source.with_name(name)
    state = codecs.read(str(source))
    metadata = {"porter.table": "sha256:1234"}
    done = codecs.write(state, str(target), FORMAT[target.suffix], metadata=metadata, **options)  # type: ignore[arg-type]
    return Path(done.path)


@pytest.mark.parametrize("name", NAMES)
def test_output_says_where_it_is_from(name: str, source: Path) -> None:
    """Metadata, the digest of the source and those of all tensors are on record."""
    target = write(source, name)
    found = check.check(target)
    assert found.ok
    assert found.tensors == 3
    assert found.metadata["porter.table"] == "sha256:1234"
    assert found.sources == {"source.npz": digest_of(source.read_bytes())}
    origin = codecs.read(str(target)).origin
    assert origin is not None
    assert origin.metadata["porter.table"] == "sha256:1234"


def test_without_record_there_is_nothing_to_check(source: Path) -> None:
    """A file without a record is refused, not called intact."""
    with pytest.raises(InputError, match="no record"):
        check.check(source)


def test_plain_write_leaves_no_record(tmp_path: Path) -> None:
    """Without metadata the output holds tensors alone, and nothing stands beside it."""
    codecs.write(StateDict.of({"a": np.ones(2)}), str(tmp_path / "a.pth"), "torch")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_foreign_file_is_not_overwritten(source: Path) -> None:
    """Something else that stands where the record goes is left alone, and named."""
    beside = source.with_name("m.pth.porter.json")
    beside.write_text('{"mine": 1}')
    with pytest.raises(UsageError, match="not porter's"):
        write(source, "m.pth")
    assert beside.read_text() == '{"mine": 1}'
    assert not source.with_name("m.pth").exists()


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"schema": "porter.provenance/2"}', '{"schema": 1}', "[" * 100_000]
)
def test_senseless_record_is_refused(text: str, source: Path) -> None:
    """A record that is none ends in one line."""
    target = write(source, "m.pth")
    target.with_name("m.pth.porter.json").write_text(text)
    with pytest.raises(InputError, match="record"):
        check.check(target)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.update(files={}),
        lambda r: r.update(sources=[1]),
        lambda r: r["files"]["m.pth"].update(bytes="x"),
        lambda r: r["files"]["m.pth"].update(digest=5),
        lambda r: r["files"]["m.pth"].update(digest=unknown("xxh3")),
        lambda r: r["files"].update({"m.pth": []}),
        lambda r: r.update(files=[]),
        lambda r: r.update(tensors=[]),
    ],
)
def test_altered_record_never_says_intact(change: object, source: Path) -> None:
    """A record that was tampered with is refused or does not fit the file."""
    target = write(source, "m.pth")
    beside = target.with_name("m.pth.porter.json")
    rows = json.loads(beside.read_text())
    change(rows)  # type: ignore[operator]
    del rows["digest"]
    rows["digest"] = unknown("xxh3")
    beside.write_bytes(record.sealed(json.dumps(rows).encode(), "xxh3"))
    with contextlib.suppress(InputError):
        found = check.check(target)
        assert not found.ok
        assert not any("the record" in problem for problem in found.problems)


@pytest.mark.parametrize("name", NAMES)
def test_output_is_the_same_every_time(name: str, source: Path) -> None:
    """The same input and options give the same bytes, record included."""
    first = write(source, name).read_bytes()
    beside = source.with_name(f"{name}.porter.json")
    before = beside.read_bytes()
    second = write(source, name, force=True).read_bytes()
    assert first == second
    assert before == beside.read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_sha256_when_asked(name: str, source: Path) -> None:
    """Source and tensors then have the digests that sha256sum prints, and are held to them."""
    target = write(source, name, digest="sha256")
    found = check.check(target)
    assert found.ok
    expected = f"sha256:{hashlib.sha256(source.read_bytes()).hexdigest()}"
    assert found.sources == {"source.npz": expected}
    array = np.load(source)["a"].tobytes()
    text = beside_of(target).read_text()
    assert hashlib.sha256(array).hexdigest() in text
    assert hashlib.sha256(target.read_bytes()).hexdigest() in text
    assert "xxh3" not in text


def beside_of(target: Path) -> Path:
    """Return the record beside an output."""
    return target.with_name(f"{target.name}.porter.json")


@pytest.mark.parametrize("name", NAMES)
def test_sha256_is_deterministic_too(name: str, source: Path) -> None:
    """The same input and options give the same bytes, record included."""
    first = write(source, name, digest="sha256").read_bytes()
    before = beside_of(source.with_name(name)).read_bytes()
    assert write(source, name, force=True, digest="sha256").read_bytes() == first
    assert before == beside_of(source.with_name(name)).read_bytes()


def test_unknown_digest_is_refused(source: Path) -> None:
    """A method that there is not is told with those that there are."""
    with pytest.raises(UsageError, match=r"no digest is called md5; there are .*sha256"):
        write(source, "m.pth", digest="md5")
    assert not source.with_name("m.pth").exists()


@pytest.mark.parametrize("name", NAMES)
def test_digest_of_another_method_is_refused(name: str, source: Path) -> None:
    """A record by a method that this porter does not know is not called intact."""
    target = write(source, name)
    data = beside_of(target).read_bytes()
    assert b"xxh3-128:" in data
    beside_of(target).write_bytes(data.replace(b"xxh3-128:", b"blake-42:"))
    with pytest.raises(InputError, match=r"digest that porter does not know: blake-42:"):
        check.check(target)


def test_command_records_and_checks_sha256(source: Path) -> None:
    """`repack --digest sha256` records it, `inspect --check` holds the file to it."""
    runner, target = CliRunner(), source.with_name("m.safetensors")
    arguments = ["repack", str(source), "-o", str(target), "--digest", "sha256", "--json"]
    done = runner.invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    expected = hashlib.sha256(np.load(source)["a"].tobytes()).hexdigest()
    assert json.loads(done.output)["tensors"]["a"]["digest"] == f"sha256:{expected}"
    assert runner.invoke(cli, ["inspect", str(target), "--check"]).exit_code == 0
    data = bytearray(target.read_bytes())
    data[-1] ^= 1
    target.write_bytes(data)
    told = runner.invoke(cli, ["inspect", str(target), "--check"])
    assert told.exit_code == 1
    assert "NOT intact: bytes differ from what was written: b" in told.output


def test_command_without_digests_says_so(source: Path) -> None:
    """`--no-digests` leaves null in the JSON and nothing to check."""
    runner, target = CliRunner(), source.with_name("m.pth")
    done = runner.invoke(cli, ["repack", str(source), "-o", str(target), "--no-digests", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["tensors"]["a"]["digest"] is None
    with pytest.raises(InputError, match="written without digests"):
        check.check(target)


@pytest.mark.parametrize("name", NAMES)
def test_without_reading_back_only_tensors_are_compared(name: str, source: Path) -> None:
    """The digest of the whole file is taken while reading back; the tensors have theirs anyway."""
    target = write(source, name, read_back=False)
    rows = json.loads(beside_of(target).read_text())
    assert rows["files"][name]["digest"] == ""
    assert rows["metadata"]["porter.without"] == "read back"
    assert check.check(target).ok
    data = bytearray(target.read_bytes())
    data[data.index(np.load(source)["a"].tobytes()) + 9] ^= 1
    target.write_bytes(data)
    assert not check.check(target).ok


@pytest.mark.parametrize("name", NAMES)
def test_no_record_when_asked(name: str, source: Path) -> None:
    """`record=False` leaves no record, not even that of the file that is replaced."""
    target = write(source, name)
    assert beside_of(target).exists()
    write(source, name, record=False, force=True)
    assert not beside_of(target).exists()
    with pytest.raises(InputError, match="no record"):
        check.check(target)


def test_record_of_an_earlier_version_is_named(source: Path) -> None:
    """Its metadata are read; its digests were taken in another way, and that is said."""
    target = write(source, "m.pth")
    rows = {"schema": "porter.provenance/1", "metadata": {"k": "v"}, "tensors": {}, "files": {}}
    beside_of(target).write_text(json.dumps(rows))
    origin = codecs.read(str(target)).origin
    assert origin is not None
    assert origin.metadata == {"k": "v"}
    with pytest.raises(InputError, match="earlier version of porter"):
        check.check(target)


@pytest.mark.parametrize("name", ["m.safetensors", "m.pth"])
def test_missing_file_of_an_output_is_named(name: str, source: Path) -> None:
    """A shard that is gone is a problem, not the end of the check."""
    target = write(source, name, max_shard_size=300)
    shard = source.with_name(f"m-00001-of-00002{Path(name).suffix}")
    shard.unlink()
    found = check.check(target)
    assert not found.ok
    assert "no such file" in str(found)
