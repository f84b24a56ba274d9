"""The torch and Paddle part of the bad files: refused in one line, or kept to the bit."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from porter import codecs
from porter.errors import InputError
from porter.tensors.lazy import LazyTensor
from tests.badcases import BFLOAT16, Case, collect

FORMATS = ("torch-zip", "torch-legacy", "paddle", "any")
CASES = collect(*FORMATS)
REJECTED = [case for case in CASES if case.rejected]
KEPT = [case for case in CASES if not case.rejected]
SECONDS = 5


def described(tensor: LazyTensor) -> dict[str, Any]:
    """Return dtype, shape and sha256 as the collection writes them."""
    digest = hashlib.sha256()
    for block in tensor.blocks():
        digest.update(block)
    code = tensor.dtype.safetensors or {"complex128": "C128"}[tensor.dtype.name]
    return {"dtype": code, "shape": list(tensor.shape), "sha256": digest.hexdigest()}


def read_all(path: Path) -> dict[str, dict[str, Any]]:
    """Read a file with every byte of it."""
    found = codecs.read(str(path), strip=False)
    return {name: described(tensor) for name, tensor in found.items()}


@pytest.mark.parametrize("case", REJECTED, ids=lambda case: case.name)
def test_bad_file_is_refused(case: Case, tmp_path: Path) -> None:
    """A bad file ends in one line that names it, soon, and nothing in it has run."""
    path = case.write(tmp_path)
    begin = time.monotonic()
    with pytest.raises(InputError) as caught:
        read_all(path)
    assert time.monotonic() - begin < SECONDS
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert case.marker is None or not case.marker.exists()


@pytest.mark.parametrize("case", KEPT, ids=lambda case: case.name)
def test_good_file_is_kept(case: Case, tmp_path: Path) -> None:
    """An awkward and honest file comes through with dtype, shape and every byte."""
    path = case.write(tmp_path)
    expected = dict(case.tensors)
    if case.name == BFLOAT16:
        expected["w"] = {**expected["w"], "dtype": "BF16"}
    if case.name == "torch-ok-name-long":
        with pytest.raises(InputError, match="longer than 4096 bytes"):
            read_all(path)
        return
    found = read_all(path)
    assert {name: found[name] for name in expected} == expected
    assert case.partial or len(found) == len(expected)


@pytest.mark.slow
def test_hundred_thousand_tensors_are_read_in_seconds(tmp_path: Path) -> None:
    """A checkpoint of 100,000 tensors is read within a few seconds, every byte of it."""
    case = next(case for case in collect("torch-zip", big=True) if "100k" in case.name)
    path = case.write(tmp_path)
    begin = time.process_time()
    found = read_all(path)
    assert time.process_time() - begin < 20
    assert len(found) == 100_000
    assert {name: found[name] for name in case.tensors} == case.tensors


# Runs in a process of its own, as an audit hook cannot be taken out again.
_WATCHED = r"""
import json, sys
from porter import codecs
from porter.errors import PorterError, printable

FORBIDDEN = ("import", "exec", "compile", "pickle.find_class", "os.system", "os.exec",
             "os.posix_spawn", "subprocess.Popen", "socket.connect", "ctypes.dlopen", "os.mkdir",
             "os.remove", "os.rename", "marshal.loads", "code.__new__")
seen = []

def watch(event, arguments):
    if event in FORBIDDEN:
        seen.append((event, str(arguments)[:100]))
    if event == "open" and arguments[1] not in (None, "r", "rb") and arguments[2] & 3:
        seen.append((event, str(arguments)[:100]))

paths = json.load(sys.stdin)
codecs.read(paths[0]).arrays()  # what porter imports late, and the codec that escapes names
for codec in codecs.CODECS.values():
    codec.read
printable("\0")
sys.addaudithook(watch)
refused = 0
for path in paths:
    try:
        for tensor in codecs.read(path).values():
            for block in tensor.blocks():
                pass
    except PorterError:
        refused += 1
print(json.dumps([refused, seen]))
"""


def test_reading_imports_and_runs_nothing(tmp_path: Path) -> None:
    """No import, execution, file opened for writing or process comes of reading any file."""
    paths = []
    for case in sorted(CASES, key=lambda case: case.rejected):
        folder = tmp_path / case.name
        folder.mkdir()
        paths.append(str(case.write(folder)))
    done = subprocess.run(
        [sys.executable, "-c", _WATCHED],
        input=json.dumps(paths),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    refused, seen = json.loads(done.stdout)
    assert seen == []
    assert refused == len(REJECTED) + 1  # the name of 70,000 characters
