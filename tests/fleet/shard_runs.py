"""Runs of `porter convert --workers` that are killed, for the tests and for the sweep.

`python -m tests.fleet.shard_runs 50` kills at 50 random moments.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import porter

VARIANT = "deit-tiny-224"
SIZE = "700KB"
NAME = "model.safetensors"
WORKERS = 2
_CREATED = 0x100


class Made:
    """The files that are made in a folder, counted by the kernel (inotify)."""

    def __init__(self, folder: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(os.O_NONBLOCK)
        assert self._libc.inotify_add_watch(self._fd, os.fsencode(folder), _CREATED) >= 0
        self._names: list[str] = []

    def names(self) -> list[str]:
        """Return the names of all files made so far."""
        with suppress(BlockingIOError):
            while data := os.read(self._fd, 1 << 16):
                while data:
                    length = struct.unpack_from("iIII", data)[3]
                    self._names.append(os.fsdecode(data[16 : 16 + length].rstrip(b"\0")))
                    data = data[16 + length :]
        return self._names

    def shards(self) -> int:
        """Return how many times a shard was begun: each time has a temporary file."""
        return sum("-of-" in name for name in self.names())


def argv(source: Path, folder: Path, *options: str) -> list[str]:
    """Return the command that writes the shards into a folder; q, k and v are apart in them."""
    return [
        sys.executable, "-P", "-m", "porter", "convert", VARIANT, str(source), "-q", "--no-verify",
        "-o", str(folder / NAME), "--to", "safetensors:hf", "--max-shard-size", SIZE,
        *options,
    ]  # fmt: skip


def started(source: Path, folder: Path) -> subprocess.Popen[bytes]:
    """Start the command with workers."""
    command = argv(source, folder, "--workers", str(WORKERS))
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def whole(source: Path, folder: Path) -> dict[str, bytes]:
    """Return the files that one process writes."""
    folder.mkdir()
    subprocess.run(argv(source, folder), check=True)
    return content(folder)


def content(folder: Path) -> dict[str, bytes]:
    """Return {name: bytes} of all that is in a folder, hidden files too."""
    return {p.name: p.read_bytes() if p.is_file() else b"" for p in folder.iterdir()}


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    found = []
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (thread / "children").read_text().split()]
    return found


class Killed(NamedTuple):
    """What became of one run."""

    driver: bool
    hit: bool
    """Whether there was still something to kill."""
    again: int
    """Shards that were begun more than once."""


def kill(
    source: Path,
    folder: Path,
    reference: dict[str, bytes],
    moment: Callable[[subprocess.Popen[bytes], Made], None],
    *,
    driver: bool,
) -> Killed:
    """Kill a worker or the driver at a moment, and repeat the command if it was the driver.

    Raises `AssertionError` unless the result is that of one process, with nothing left over, and
    at most one shard for each process that was killed was begun again.
    """
    parts = folder / f".{NAME}.porter-parts"
    parts.mkdir(parents=True)
    made = Made(parts)
    process = started(source, folder)
    moment(process, made)
    workers = children(process.pid)
    hit = driver or bool(workers)
    with suppress(ProcessLookupError):
        if driver:
            process.kill()
        elif workers:
            os.kill(random.choice(workers), signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    # Killed after its last file: to repeat it would be refused, for the output is there.
    is_late = driver and (folder / f"{NAME}.index.json").exists() and not parts.exists()
    if driver and process.returncode and not is_late:
        process = started(source, folder)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0 or is_late, err
    assert content(folder) == reference
    shards = sum("-of-" in name for name in reference)
    again = made.shards() - shards
    assert 0 <= again <= (WORKERS if driver else 1), made.names()
    return Killed(driver, hit, again)


def after(shards: int, seconds: float) -> Callable[[subprocess.Popen[bytes], Made], None]:
    """Return a moment: when so many shards were begun, and a little later."""

    def moment(process: subprocess.Popen[bytes], made: Made) -> None:
        for _ in range(12_000):
            if made.shards() >= shards or process.poll() is not None:
                break
            time.sleep(0.005)
        assert made.shards() >= shards, "the shards were not begun"
        time.sleep(seconds)

    return moment


def main(count: int) -> None:
    """Kill at random moments of a run, every third time the driver, and print what came of it."""
    with tempfile.TemporaryDirectory(prefix="porter-sweep-") as name:
        folder = Path(name)
        source = folder / "source.pth"
        porter.init(VARIANT, source)
        reference = whole(source, folder / "whole")
        shards = sum("-of-" in name for name in reference)
        rows = []
        for number in range(count):
            begun, wait = random.randint(0, shards), random.uniform(0, 0.1)
            driver = number % 3 == 0
            moment = after(begun, wait)
            rows.append(kill(source, folder / str(number), reference, moment, driver=driver))
            where = f"when {begun} shards were begun, and {wait:.3f} s later"
            print(f"{number + 1}/{count}  {where}  {rows[-1]}", flush=True)
    again = [row.again for row in rows]
    print(
        f"{count} kills, {sum(row.hit for row in rows)} of a process that was there; of {shards}"
        f" shards {sum(again)} begun again, at most {max(again)} a kill; outputs byte-identical,"
        " nothing left over"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
