"""A folder that may not be written: one line, exit code 3, everything as it was."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from porter import codecs

_PORTER = (sys.executable, "-c", "from porter.cli import main; main()")
OLD = b"the old file"
# Root may write anywhere, unless it gives that right away.
UNPRIVILEGED = ("setpriv", "--bounding-set", "-dac_override") if os.geteuid() == 0 else ()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with an input, and one below it with an old output."""
    made = tmp_path / "read-only"
    made.mkdir()
    np.savez(made / "in.npz", a=np.arange(100.0), b=np.arange(200.0))
    (made / "out").mkdir()
    (made / "out" / "old.safetensors").write_bytes(OLD)
    yield made
    made.joinpath("out").chmod(0o755)


def repacked(folder: Path, name: str, *before: str, more: tuple[str, ...] = ()) -> str:
    """Run `porter repack` into the folder; return its one line, after the checks."""
    arguments = ["repack", str(folder / "in.npz"), "-o", str(folder / "out" / name), "--force"]
    command = [*before, *_PORTER, *arguments, *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3, done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in (folder / "out").iterdir()] == ["old.safetensors"]
    assert (folder / "out" / "old.safetensors").read_bytes() == OLD
    return done.stderr


SHARDS = ("--max-shard-size", "900B")
OUTPUTS = [("old.safetensors", ()), ("new.pth", ()), ("shards.safetensors", SHARDS)]


@pytest.mark.parametrize(("name", "more"), OUTPUTS)
def test_folder_without_permission(name: str, more: tuple[str, ...], folder: Path) -> None:
    """A folder whose owner lets nobody write: the machine refuses, and is quoted."""
    (folder / "out").chmod(0o555)
    line = repacked(folder, name, *UNPRIVILEGED, more=more)
    assert "cannot be written: Permission denied" in line


@pytest.mark.parametrize(("name", "more"), OUTPUTS)
def test_file_system_that_is_read_only(name: str, more: tuple[str, ...], folder: Path) -> None:
    """A mount that is read-only, which binds root too."""
    mount = (
        'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"',
        str(folder / "out"),
    )
    before = ("unshare", "-m", "sh", "-c", *mount)
    if subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mounts may be made here: it takes root and CAP_SYS_ADMIN")
    line = repacked(folder, name, *before, more=more)
    assert "cannot be written: Read-only file system" in line


def test_input_in_a_folder_that_is_read_only(folder: Path, tmp_path: Path) -> None:
    """Reading asks for no right to write: neither a lock nor a temporary file beside the input."""
    folder.chmod(0o555)
    command = [*UNPRIVILEGED, *_PORTER, "repack", str(folder / "in.npz")]
    command += ["-o", str(tmp_path / "o.pth")]
    subprocess.run(command, capture_output=True, timeout=60, check=True)
    assert set(codecs.read(str(tmp_path / "o.pth"))) == {"a", "b"}
    folder.chmod(0o755)
