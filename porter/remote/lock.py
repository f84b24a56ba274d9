"""One command at a time for an output at an address.

Each command puts an object of its own into `.NAME.porter-lock/` next to the output, then lists that
folder: a command that sees an object of another there removes its own and gives up. Of two at the
same moment at least one sees the other, whatever the store is; conditional requests are not needed.
The object is written again each `RENEWED` seconds. One that was not for `EXPIRES` seconds, by the
clock of the store, or whose process on this machine has ended, is of a command that was killed, and
is removed by the next.
"""

from __future__ import annotations

import json
import os
import random
import socket
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from porter.errors import PorterError, SystemFault, printable
from porter.remote.address import Address, address
from porter.remote.fsspec_store import faults
from porter.storage.lock import hidden

RENEWED = 60.0
"""Seconds after which a lock is written again."""
EXPIRES = 300.0
"""Seconds after which a lock that was not written again is of a command that was killed."""
_MARGIN = 60.0
"""Seconds before that, in which a command does not trust its own lock."""
_TRIES = 4
_FOR_TRIES = 2.0
"""Seconds: locks older than that are held, younger ones may be given up."""


class AddressLock:
    """The lock on one output, until `release`."""

    def __init__(self, target: Address, system: Any) -> None:
        self._target = target
        self._system = system
        self._folder = _folder(target)
        self._name = ""
        self._sure_until = 0.0
        self._released = threading.Event()
        self._writes = threading.Lock()

    def take(self) -> None:
        """Lock the output; `SystemFault` while another command writes it."""
        for attempt in range(_TRIES):
            age, owner = self._tried()
            if not owner:
                threading.Thread(target=self._renew, name="porter_lock", daemon=True).start()
                return
            if age > _FOR_TRIES:
                break
            # Both may have given up.
            time.sleep(random.uniform(0.1, 0.5) * (attempt + 1))
        raise SystemFault(
            f"is being written by another command ({owner}, last seen {max(age, 0):,.0f} s ago);"
            f" if that was killed, it can be written in {max(EXPIRES - age, 1):,.0f} s",
            self._target.shown,
        )

    def check(self) -> None:
        """Raise `SystemFault` when another command may have taken the output over.

        That is, when this one could not renew its lock in time and the lock is gone.
        """
        if _clock() < self._sure_until:
            return
        with self._faults():
            self._system.invalidate_cache()
            is_there = self._system.exists(self._url(self._name))
        if not is_there:
            what = f"the lock was not renewed for {EXPIRES:,.0f} s and is another command's now"
            raise SystemFault(what, self._target.shown)
        self._write()

    def release(self) -> None:
        """Let the output go."""
        with self._writes:  # What is removed is not written again.
            self._released.set()
            self._remove(self._name)

    def _tried(self) -> tuple[float, str]:
        """Put an object and look for others; return the age and the owner of one that lives."""
        self._name = f"{os.urandom(8).hex()}.json"
        try:
            self._write()
            other = self._other()
        except BaseException:
            self._remove(self._name)
            raise
        if other[1]:
            self._remove(self._name)
        return other

    def _other(self) -> tuple[float, str]:
        with self._faults():
            self._system.invalidate_cache()
            names = {row.rpartition("/")[2] for row in self._system.ls(self._folder, detail=False)}
            now = self._system.modified(self._url(self._name))
            for name in sorted(names - {self._name, ""}):
                with suppress(FileNotFoundError):  # It was released meanwhile.
                    owner = _read(self._system.cat_file(self._url(name)))
                    age = (now - self._system.modified(self._url(name))).total_seconds()
                    if age < EXPIRES and not _has_ended(owner):
                        return age, _said(owner)
                    self._system.rm_file(self._url(name))
        return 0.0, ""

    def _renew(self) -> None:
        while not self._released.wait(RENEWED):
            # One that has expired may be another's: `check` looks.
            with self._writes, suppress(PorterError):
                if _clock() < self._sure_until and not self._released.is_set():
                    self._write()

    def _write(self) -> None:
        begun = _clock()
        with self._faults():
            self._system.pipe_file(self._url(self._name), json.dumps(_owner()).encode())
        self._sure_until = begun + EXPIRES - _MARGIN

    def _remove(self, name: str) -> None:
        with suppress(PorterError), self._faults(), suppress(FileNotFoundError):
            self._system.rm_file(self._url(name))

    def _url(self, name: str) -> str:
        return f"{self._folder}/{name}"

    def _faults(self) -> Any:
        return faults(self._target, "written")


def _folder(target: Address) -> str:
    """Return the address of the folder of an output's locks: next to it, or in a whole bucket."""
    whole = target.url.rstrip("/")
    name = os.path.basename(hidden(whole.rpartition("/")[2], "lock"))
    is_bucket = "/" not in whole.partition("://")[2]
    home = address(f"{whole}/") if is_bucket else address(whole)
    return home.sibling(name).url


def _clock() -> float:
    """Return seconds that go on while the machine sleeps."""
    return (
        time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.time()
    )


def _owner() -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    pid, host = os.getpid(), socket.gethostname()
    about = {"machine": _machine(), "started": _started(pid)}
    return {"host": host, "pid": pid, **about, "renewed": now}


def _machine() -> str:
    """Return what says that two processes see each other, "" where nothing does."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def _read(data: bytes) -> dict[str, Any]:
    try:
        row = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def _said(owner: dict[str, Any]) -> str:
    pid, host = printable(owner.get("pid", "?"), 20), printable(owner.get("host", "?"), 60)
    return f"process {pid} on {host}"


def _started(pid: int) -> str:
    """Return when a process of this machine began, as it counts; "" of one that has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            state, *rest = file.read().rpartition(") ")[2].split()
    except (OSError, ValueError):
        return ""
    return "" if state in "ZX" else rest[18]


def _has_ended(owner: dict[str, Any]) -> bool:
    """Whether the process that wrote a lock was one of this machine and is no longer there."""
    pid, machine = owner.get("pid"), _machine()
    if not machine or owner.get("machine") != machine or type(pid) is not int:
        return False
    return _started(pid) != owner.get("started")
