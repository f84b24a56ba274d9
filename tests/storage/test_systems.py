"""Systems without POSIX calls: the same files come out without the calls that Windows lacks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from porter import codecs
from porter.commands.repack import repack

CALLS = (
    "pread", "preadv", "pwrite", "pwritev", "posix_fadvise", "posix_fallocate", "copy_file_range",
    "fchown", "fchmod", "statvfs", "fstatvfs", "sysconf", "sched_getaffinity", "O_NONBLOCK",
    "O_NOFOLLOW", "O_CLOEXEC", "O_DIRECTORY", "O_SYNC", "fdatasync",
)  # fmt: skip
"""What `os` of Windows does not have, of what a writer of files may ask for."""

# Hidden before porter is imported; the standard library and filelock keep what they imported.
_HIDDEN = f"""
import mmap, os, sys
for module in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[module] = None
import shutil
free = shutil.disk_usage
import filelock, tempfile, subprocess, warnings
for name in {CALLS!r}:
    if hasattr(os, name):
        delattr(os, name)
for name in ("MAP_PRIVATE", "MAP_ANONYMOUS", "MADV_HUGEPAGE"):
    delattr(mmap, name)
shutil.disk_usage = lambda path: type("Usage", (), {{"free": 1 << 40}})
"""

_CONVERT = """
from porter.commands.repack import repack
from porter.commands.convert import convert
from porter.codecs.check import check
from porter.errors import UsageError
from porter.commands.init import init
done = repack("in.npz", "out/" + sys.argv[1], max_shard_size=sys.argv[2] or None)
assert check(done.written.path).ok
try:
    repack("in.npz", "out/" + sys.argv[1], max_shard_size=sys.argv[2] or None)
except UsageError as error:
    assert "--force replaces it" in str(error), error
else:
    raise AssertionError
done = repack("in.npz", "out/" + sys.argv[1], max_shard_size=sys.argv[2] or None, force=True)
"""


@pytest.mark.parametrize(
    ("name", "shards"),
    [("a.pth", ""), ("a.safetensors", ""), ("a.pdparams", ""), ("a.safetensors", "3MB")],
)
def test_files_are_the_same_without_posix_calls(name: str, shards: str, tmp_path: Path) -> None:
    """A process without fcntl, positional reads and the rest writes the same bytes."""
    big = np.arange(3 << 20, dtype=np.float32).reshape(3, -1)
    arrays = {"a": big, "t": np.asfortranarray(big[:, :1000]), "b": np.ones(3, np.float16)}
    np.savez(tmp_path / "in.npz", **arrays)
    (tmp_path / "out").mkdir()
    (tmp_path / "here").mkdir()
    command = [sys.executable, "-c", _HIDDEN + _CONVERT, name, shards]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    repack(tmp_path / "in.npz", tmp_path / "here" / name, max_shard_size=shards or None)
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()}
    index = tmp_path / "out" / (f"{name}.index.json" if shards else name)
    assert codecs.read(str(index))["a"].read().tobytes() == big.tobytes()
