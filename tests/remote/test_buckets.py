"""Addresses of buckets and of fsspec's other systems: a real S3 client against moto's server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

import porter
from porter.errors import InputError, MissingPackage, PorterError, SystemFault, UsageError
from porter.remote import fsspec_store
from tests.buckets import STORED as WEIGHTS


def test_bucket_is_read_by_ranges(bucket: Any, tmp_path: Path) -> None:
    """Opened, looked into, converted and compared like a file."""
    address = "s3://models/dir/model.safetensors"
    state = porter.open(address)
    np.testing.assert_array_equal(state["w"].read(), WEIGHTS["w"])
    done = porter.repack(address, tmp_path / "x.npz")
    assert done.origin.shown == address
    assert porter.diff(tmp_path / "x.npz", address).equal
    assert porter.open("s3://models/dir").origin.shown == address  # type: ignore[union-attr]


@pytest.mark.parametrize("address", ["s3://models/dir/none.pth", "s3://none/x.pth"])
def test_missing_is_one_line(bucket: Any, address: str) -> None:
    """What is not there is an input error without secrets."""
    with pytest.raises(PorterError) as caught:
        porter.open(address)
    assert str(caught.value).startswith(f"{address}: ")
    assert "secret" not in str(caught.value)


def test_change_is_an_error(bucket: Any) -> None:
    """The tag of the object is compared."""
    state = porter.open("s3://models/dir/model.safetensors")
    assert state.origin is not None
    bucket.pipe_file("models/dir/model.safetensors", save({**WEIGHTS, "b": np.zeros(3, "f4")}))
    (file,) = state.origin.open_files
    with pytest.raises(InputError, match="changed while it was being read"):
        file.now()  # type: ignore[attr-defined]


def test_output_goes_to_the_bucket(bucket: Any, tmp_path: Path) -> None:
    """Whole, with its record; an object that is there is replaced by force only."""
    source = tmp_path / "s.safetensors"
    source.write_bytes(save(WEIGHTS))
    done = porter.repack(source, "s3://models/out/x.safetensors")
    assert done.written.path == "s3://models/out/x.safetensors"
    np.testing.assert_array_equal(load(bucket.cat("models/out/x.safetensors"))["w"], WEIGHTS["w"])
    assert bucket.exists("models/out/x.safetensors.porter.json")
    with pytest.raises(UsageError, match="exists already; --force"):
        porter.repack(source, "s3://models/out/x.safetensors")
    porter.repack(source, "s3://models/out/x.safetensors", force=True)


def test_shards_go_before_their_index(bucket: Any, tmp_path: Path) -> None:
    """The index, which makes the shards a checkpoint, is the last that is sent."""
    source = tmp_path / "s.safetensors"
    source.write_bytes(save(WEIGHTS))
    done = porter.repack(source, "s3://models/out/x.safetensors", max_shard_size=100_000)
    assert done.written.files[-1].endswith(".index.json")
    assert porter.diff(source, done.written.files[-1]).equal


def test_failed_sending_leaves_nothing(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sent before the fault is removed again; what was there before stays."""
    source = tmp_path / "s.safetensors"
    source.write_bytes(save(WEIGHTS))
    real, sent = bucket.put_file, []

    def put_file(path: str, url: str) -> None:
        if url.endswith(".safetensors"):
            raise OSError("the line is cut")
        real(path, url)
        sent.append(url)

    monkeypatch.setattr(bucket, "put_file", put_file)
    with pytest.raises(SystemFault, match="cannot be written: the line is cut"):
        porter.repack(source, "s3://models/out/x.safetensors")
    assert sent == ["s3://models/out/x.safetensors.porter.json"]
    bucket.invalidate_cache()
    assert not bucket.exists("models/out/x.safetensors.porter.json")


def test_system_in_memory_and_files(tmp_path: Path) -> None:
    """fsspec's own systems: `memory` and `file`."""
    path = tmp_path / "s.safetensors"
    path.write_bytes(save(WEIGHTS))
    porter.repack(f"file://{path}", "memory://m/x.safetensors")
    np.testing.assert_array_equal(porter.open("memory://m/x.safetensors")["w"].read(), WEIGHTS["w"])
    porter.repack("memory://m/x.safetensors", f"file://{tmp_path}/y.safetensors")
    assert porter.diff(path, tmp_path / "y.safetensors").equal
    assert porter.open(f"file://{path}").origin.shown == str(path)  # type: ignore[union-attr]


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_system_that_is_not_installed(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package to install is named."""
    monkeypatch.setitem(sys.modules, {"gs": "gcsfs", "az": "adlfs"}[scheme], None)
    with pytest.raises(MissingPackage, match=rf"need .*pip install 'porter-weights\[{scheme}\]'"):
        porter.open(f"{scheme}://bucket/x.pth")
    monkeypatch.setitem(fsspec_store._PACKAGES, "s3", ("no_such_package",))
    with pytest.raises(MissingPackage, match=r"porter-weights\[remote\]"):
        porter.open("s3://bucket/x.pth")


def test_web_addresses_are_not_written(tmp_path: Path) -> None:
    """Nothing is converted for a place that takes no file."""
    path = tmp_path / "s.safetensors"
    path.write_bytes(save(WEIGHTS))
    with pytest.raises(UsageError, match="https addresses are read"):
        porter.repack(path, "https://example.org/x.safetensors")
