"""The record next to a file is that of the file, whatever a kill or a rename left behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from porter import codecs
from porter.codecs.check import check
from porter.codecs.detect import container_of
from porter.commands.repack import repack
from porter.errors import InputError
from porter.storage import atomic_output
from porter.storage.sidecar import SUFFIX
from porter.tensors.state_dict import StateDict


def _format(path: Path) -> str:
    found = container_of(str(path))
    assert found is not None
    return found


def _written(path: Path, value: int, force: bool = False) -> Path:
    state = StateDict.of({"a": np.full(9, value, np.float32)})
    codecs.write(state, str(path), _format(path), metadata={"porter.version": "0"}, force=force)
    return path


@pytest.mark.parametrize("suffix", ["pth", "pdparams", "safetensors", "npz"])
def test_a_kill_before_the_record_leaves_none_of_another_file(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replaced output whose run was killed has no record, instead of that of the old one."""
    path = _written(tmp_path / f"a.{suffix}", 1)
    assert check(path).ok
    publish: Callable[..., Any] = atomic_output.publish

    def killed(target: str, *args: Any, **options: Any) -> Any:
        if os.fspath(target).endswith(SUFFIX):
            raise SystemExit(137)
        return publish(target, *args, **options)

    monkeypatch.setattr(atomic_output, "publish", killed)
    with pytest.raises(SystemExit):
        _written(path, 2, force=True)
    assert codecs.read(str(path))["a"].read()[0] == 2
    with pytest.raises(InputError, match="has no record"):
        check(path)


def test_a_run_that_fails_keeps_the_record_of_the_old_file(tmp_path: Path) -> None:
    """An output that is refused leaves the old one with its record."""
    path = _written(tmp_path / "a.pth", 1)
    long = StateDict.of({"w" * 5000: np.zeros(3, np.float32)})
    with pytest.raises(InputError) as error:
        codecs.write(long, str(path), "torch", metadata={}, force=True)
    assert error.value.path == str(path)
    assert "nothing was written" in error.value.message
    assert ".porter-" not in str(error.value)
    assert len(str(error.value)) < 600
    assert check(path).ok


def test_a_renamed_file_is_checked_itself(tmp_path: Path) -> None:
    """A file that was renamed with its record is read, not the one that has its old name."""
    one, other = _written(tmp_path / "a.pth", 1), tmp_path / "b.pth"
    shutil.copy(one, other)
    shutil.copy(f"{one}{SUFFIX}", f"{other}{SUFFIX}")
    assert check(other).ok
    other.write_bytes(_written(tmp_path / "c.pth", 2).read_bytes())
    assert not check(other).ok
    one.unlink()
    assert "bytes differ" in check(other).problems[0]


def test_the_record_of_several_files_is_not_another_output_s(tmp_path: Path) -> None:
    """The record of shards next to a file of another name is refused with the remedy."""
    state = StateDict.of({name: np.zeros(999, np.float32) for name in "abc"})
    codecs.write(
        state, str(tmp_path / "s.safetensors"), "safetensors", metadata={}, max_shard_size=5000
    )
    (record,) = tmp_path.glob(f"*{SUFFIX}")
    other = _written(tmp_path / "o.pth", 1)
    shutil.copy(record, f"{other}{SUFFIX}")
    with pytest.raises(InputError, match="give them these names back"):
        check(other)


@pytest.mark.parametrize("suffix", ["npz", "pth", "pdparams"])
def test_a_name_that_is_too_long_is_said_of_the_output(suffix: str, tmp_path: Path) -> None:
    """No temporary file is named when an output could not be read back."""
    state = StateDict.of({"w" * 5000: np.zeros(3, np.float32)})
    codecs.write(state, str(tmp_path / "long.safetensors"), "safetensors")
    with pytest.raises(InputError) as error:
        repack(tmp_path / "long.safetensors", tmp_path / f"o.{suffix}")
    assert error.value.path == str(tmp_path / f"o.{suffix}")
    assert ".porter-" not in str(error.value)
    assert len(str(error.value)) < 600
    assert not (tmp_path / f"o.{suffix}").exists()
