"""Publishing: the old file or the new one, nothing between, nothing left behind."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from porter import codecs
from porter.errors import InputError, PorterError, SystemFault, UsageError
from porter.storage import atomic_output, pieces
from porter.storage.atomic_output import publish, remove_stale, resolve
from porter.storage.input_file import InputFile
from porter.storage.lock import locked
from porter.storage.options import WriteOptions
from porter.storage.pieces import Body, Late, Piece
from porter.tensors.dtypes import DTYPES
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict

OLD = b"the old file"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "model.bin"


def content(target: Path) -> dict[str, bytes]:
    """Return what is in the target's folder."""
    return {path.name: path.read_bytes() for path in target.parent.iterdir()}


def test_pieces_stand_in_order(target: Path) -> None:
    """Bytes, tensors and what is known late come out in their order, small and large."""
    big = np.arange(pieces.WRITE_BLOCK, dtype=np.float32).reshape(1024, -1)
    bodies = [Body("big", LazyTensor.of(big.T), checksum=True), Body("s", LazyTensor.of(big[0]))]
    parts: list[Piece] = [
        Late(8, lambda: bodies[0].crc32.to_bytes(8, "little"), last=True),
        b"head",
        Late(4, lambda: bodies[0].crc32.to_bytes(4, "little")),
        *bodies,
        b"tail",
    ]
    written = publish(target, parts)
    import zlib

    crc = zlib.crc32(big.T.tobytes())
    expected = crc.to_bytes(8, "little") + b"head" + crc.to_bytes(4, "little") + big.T.tobytes()
    assert target.read_bytes() == expected + big[0].tobytes() + b"tail"
    assert written.nbytes == len(target.read_bytes())
    assert set(written.digests) == {"big", "s"}


def test_existing_file_is_kept_without_force(target: Path) -> None:
    """Nothing is replaced unless that is asked for."""
    target.write_bytes(OLD)
    with pytest.raises(UsageError, match="--force"):
        publish(target, [b"new"])
    assert content(target) == {"model.bin": OLD}
    publish(target, [b"new"], WriteOptions(force=True))
    assert content(target) == {"model.bin": b"new"}


def test_file_that_came_meanwhile_is_kept(target: Path) -> None:
    """A file that another process puts there during the writing is not replaced."""

    def late() -> bytes:
        target.write_bytes(OLD)
        return b"new"

    with pytest.raises(UsageError, match="meanwhile"):
        publish(target, [Late(3, late, last=True)])
    assert content(target) == {"model.bin": OLD}


@pytest.mark.parametrize("how", ["same", "hard", "link"])
def test_output_may_not_be_the_input(how: str, target: Path) -> None:
    """The input by its own name, by a second one or through a link is no output."""
    target.write_bytes(OLD)
    other = target.with_name("other")
    if how == "hard":
        os.link(target, other)
    elif how == "link":
        other.symlink_to(target.name)
    else:
        other = target
    with pytest.raises(UsageError, match="input itself"):
        publish(other, [b"new"], WriteOptions(force=True), inputs=[target])
    assert target.read_bytes() == OLD


@pytest.mark.parametrize(
    ("name", "words"), [("-", "an output is a file"), ("w\udcff.pth", "UTF-8")]
)
def test_names_that_a_record_cannot_state_are_refused(name: str, words: str) -> None:
    """A hyphen is not a stream, and bytes that are not UTF-8 are in no record or index."""
    with pytest.raises(UsageError, match=words):
        resolve(name, (), False)


def test_link_is_written_through(target: Path, tmp_path: Path) -> None:
    """A link stays a link; the file that it names is replaced, beside which the work is done."""
    real = tmp_path / "real.bin"
    real.write_bytes(OLD)
    target.symlink_to(real)
    publish(target, [b"new"], WriteOptions(force=True))
    assert target.is_symlink()
    assert real.read_bytes() == b"new"
    dangling = target.with_name("dangling")
    dangling.symlink_to(tmp_path / "gone" / "x")
    with pytest.raises(UsageError, match="folder does not exist"):
        publish(dangling, [b"new"])


@pytest.mark.parametrize("what", ["folder", "/dev/null", "missing/x"])
def test_what_is_no_file_is_no_output(what: str, target: Path) -> None:
    """Folders, devices and places without a folder are refused."""
    path = target.parent if what == "folder" else target.parent / what
    with pytest.raises(UsageError, match="cannot be written"):
        publish(path, [b"new"], WriteOptions(force=True))


def _access_list(*entries: tuple[int, int, int]) -> bytes:
    """Return a POSIX access list of (tag, rights, identifier)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


_NOBODY = 0xFFFFFFFF


def _set_access_list(path: Path, kind: str, *entries: tuple[int, int, int]) -> None:
    try:
        os.setxattr(path, f"system.posix_acl_{kind}", _access_list(*entries))
    except (AttributeError, OSError):
        pytest.skip("this file system has no access lists")


def test_an_access_list_is_kept(target: Path) -> None:
    """A replaced file keeps its list: the group gets no rights that were only its mask."""
    target.write_bytes(b"old")
    entries = ((1, 6, _NOBODY), (2, 6, 1234), (4, 0, _NOBODY), (16, 6, _NOBODY), (32, 0, _NOBODY))
    _set_access_list(target, "access", *entries)
    publish(target, [b"new"], WriteOptions(force=True))
    assert os.getxattr(target, "system.posix_acl_access") == _access_list(*entries)


def test_a_default_access_list_does_not_open_a_replaced_file(target: Path) -> None:
    """What the folder gives to new files is not given to a new version of an old one."""
    target.write_bytes(b"old")
    target.chmod(0o640)
    entries = ((1, 6, _NOBODY), (2, 6, 1234), (4, 4, _NOBODY), (16, 6, _NOBODY), (32, 0, _NOBODY))
    _set_access_list(target.parent, "default", *entries)
    publish(target, [b"new"], WriteOptions(force=True))
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert "system.posix_acl_access" not in os.listxattr(target)


def test_a_file_of_another_name_gives_its_permissions(target: Path) -> None:
    """A new file that replaces one of another name is as private as that."""
    old = target.with_name("old")
    old.write_bytes(b"old")
    old.chmod(0o600)
    publish(target, [b"new"], like=str(old))
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_permissions_are_kept(target: Path) -> None:
    """A replaced file keeps its mode, a new one has what the umask gives."""
    old = os.umask(0o027)
    try:
        publish(target, [b"new"])
        assert stat.S_IMODE(target.stat().st_mode) == 0o640
        target.chmod(0o604)
        publish(target, [b"newer"], WriteOptions(force=True))
        assert stat.S_IMODE(target.stat().st_mode) == 0o604
    finally:
        os.umask(old)


def failing(at: int) -> LazyTensor:
    """Return a tensor whose reading fails."""

    def read() -> np.ndarray:
        raise InputError("damaged", "input")

    return LazyTensor(DTYPES["float32"], (at,), read)


def test_input_that_fails_leaves_nothing(target: Path) -> None:
    """An error of the input while it is read leaves the old file and no other."""
    target.write_bytes(OLD)
    with pytest.raises(InputError, match="damaged"):
        publish(
            target, [Body("a", failing(9)), Body("b", failing(1 << 20))], WriteOptions(force=True)
        )
    assert content(target) == {"model.bin": OLD}


@pytest.mark.parametrize("change", ["rewritten", "replaced", "gone"])
def test_changed_input_publishes_nothing(change: str, target: Path, tmp_path: Path) -> None:
    """An input that is altered, exchanged or removed meanwhile is an error."""
    source = tmp_path / "in.bin"
    source.write_bytes(b"0" * 100)

    def late() -> bytes:
        if change == "rewritten":
            source.write_bytes(b"1" * 100)
            os.utime(source, ns=(5, 5))
        elif change == "gone":
            source.unlink()
        else:
            (tmp_path / "new").write_bytes(b"0" * 100)
            (tmp_path / "new").rename(source)
        return b"x"

    with pytest.raises(InputError, match="while it was being read"):
        publish(target, [Late(1, late, last=True)], inputs=[source])
    assert content(target) == {}


@pytest.mark.parametrize(
    ("where", "problem"),
    [(-1, "bytes differ from what was written: w"), (50, "bytes outside of the tensors")],
)
def test_flip_between_writing_and_reading_back(
    where: int, problem: str, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bit that turns on its way to the disk is found before the file appears."""

    real = atomic_output.writing.write

    def flip(fd: int, *args: object) -> None:
        real(fd, *args)  # type: ignore[arg-type]
        at = where if where >= 0 else next(b.offset for b in args[0].bodies)  # type: ignore[attr-defined]
        os.pwrite(fd, bytes([os.pread(fd, 1, at)[0] ^ 1]), at)

    monkeypatch.setattr(atomic_output.writing, "write", flip)
    state = StateDict.of({"w": np.zeros(100, np.uint8)})
    with pytest.raises(SystemFault, match=f"read-back check failed: {problem}"):
        codecs.write(state, str(target), "torch")
    assert content(target) == {}


def test_disk_without_room_is_told_first(target: Path) -> None:
    """What cannot fit is refused before a byte is read, with the bytes needed."""
    size = 1 << 50
    huge = LazyTensor(DTYPES["uint8"], (size,), failing(1).read)
    with pytest.raises(SystemFault, match=f"{size:,} bytes are needed"):
        publish(target, [Body("w", huge)])
    assert content(target) == {}


_RUN = """
import os, resource, signal, sys
import numpy as np
from porter.storage.atomic_output import publish
from porter.storage.options import WriteOptions
from porter.storage.pieces import Body
from porter.errors import PorterError
from porter.tensors.lazy import LazyTensor
limit = int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    body = Body("w", LazyTensor.of(np.full(3_000_000, 7, np.uint8)))
    publish(sys.argv[1], [b"new", body], WriteOptions(force=True))
except PorterError as error:
    print(error)
    os._exit(error.exit_code)
os._exit(0)
"""
NEW = b"new" + bytes([7]) * 3_000_000


def run(target: Path, limit: int = 0, *before: str) -> subprocess.CompletedProcess[str]:
    """Write `NEW` in a process of its own."""
    command = [*before, sys.executable, "-c", _RUN, str(target), str(limit)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_full_disk(target: Path) -> None:
    """A disk that fills up leaves the old file; the code is the environment's."""
    target.write_bytes(OLD)
    done = run(target, 1 << 20)
    assert done.returncode == 3
    assert "bytes are needed" in done.stdout
    assert content(target) == {"model.bin": OLD}


FAULTS = ["fsync:error=EIO", "pwrite64:error=ENOSPC", "fallocate:error=EIO", "rename:error=EIO"]


@pytest.mark.parametrize("fault", FAULTS)
def test_system_call_that_fails(fault: str, target: Path) -> None:
    """Whichever call fails, the old file stays and no other is left; fsync is not tried again."""
    target.write_bytes(OLD)
    done = run(target, 0, "strace", "-f", "-qq", "-o", str(target.parent / "log"), "-e",
               f"trace={fault.split(':')[0]}", "-e", f"inject={fault}:when=1")  # fmt: skip
    log = (target.parent / "log").read_text()
    (target.parent / "log").unlink()
    assert "(INJECTED)" in log
    assert done.returncode == 3
    assert content(target) == {"model.bin": OLD}
    assert log.count("fsync(") <= 1


@pytest.mark.slow
@pytest.mark.parametrize("call", ["fallocate", "pwrite64", "fsync", "fchmod", "rename", "unlink"])
def test_killed_at_any_call(call: str, target: Path) -> None:
    """Killed at any call, it is the old file or the new one, and the next run cleans up."""
    target.write_bytes(OLD)
    killed = 0
    for nth in range(1, 12):
        done = run(target, 0, "strace", "-f", "-qq", "-o", "/dev/null", "-e",
                   f"trace={call}", "-e", f"inject={call}:signal=KILL:when={nth}")  # fmt: skip
        assert target.read_bytes() in (OLD, NEW)
        if done.returncode == 0:
            break
        killed += 1
    assert killed or call == "unlink"
    assert run(target).returncode == 0
    assert content(target) == {"model.bin": NEW}


def test_done_means_on_disk(target: Path) -> None:
    """File, then name, then folder: the order that survives a power cut."""
    target.write_bytes(OLD)
    log = target.parent.parent / "log"
    run(target, 0, "strace", "-f", "-qq", "-y", "-o", str(log), "-e", "trace=fsync,rename,pwrite64")
    calls = re.findall(r"(fsync|rename|pwrite64)\((?:\d+)?<?([^>,]*)", log.read_text())
    ours = [(call, name) for call, name in calls if str(target.parent) in name]
    order = [call for call, _ in ours]
    assert order[-3:] == ["fsync", "rename", "fsync"]
    assert ours[-1][1] == str(target.parent)
    assert "pwrite64" not in order[-3:]


def test_temporary_file_of_the_dead_is_removed(target: Path) -> None:
    """What a killed run left, its lock too, is removed by the next run on the same output."""
    stale = target.parent / ".model.bin.porter-1-aaaa"
    lock = target.parent / ".model.bin.porter-lock"
    other = target.parent / ".other.bin.porter-3-cccc"
    for path in (stale, lock, other):
        path.write_bytes(b"x")
    assert remove_stale(str(target)) == [str(stale)]
    assert not stale.exists()
    publish(target, [b"new"])
    assert sorted(content(target)) == [other.name, target.name]


def test_output_of_another_writer_is_left_to_it(target: Path) -> None:
    """While one writes, a second ends with the code of the environment, and changes nothing."""
    target.write_bytes(OLD)
    with locked(str(target)), pytest.raises(SystemFault, match="written by another process"):
        publish(target, [b"new"], WriteOptions(force=True))
    assert content(target) == {"model.bin": OLD}


def test_concurrent_writers_give_one_whole_file(target: Path) -> None:
    """Eight writers of one output leave one of the eight, whole, and nothing else."""
    wanted = [bytes([i]) * (3 << 20) for i in range(8)]

    def write(data: bytes) -> None:
        with contextlib.suppress(SystemFault):  # Another one writes.
            publish(target, [data[:100], data[100:]], WriteOptions(force=True))

    for _ in range(3):
        threads = [threading.Thread(target=write, args=(data,)) for data in wanted]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert list(content(target)) == ["model.bin"]
        assert target.read_bytes() in wanted


_SLOW = """
import sys, time
import numpy as np
from porter import codecs
from porter.tensors.dtypes import DTYPES
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.cli import main
def write(*args, **more):
    def read():
        print("reading", flush=True)
        time.sleep(1.5)
        return np.zeros(4, np.float32)
    tensors = {f"t{i}": LazyTensor(DTYPES["float32"], (4,), read) for i in range(9)}
    codecs.write(StateDict(tensors), sys.argv[-1], "safetensors", force=True)
import porter.cli.doctor, click
porter.cli.doctor.command = click.command("doctor")(write)
sys.argv[1:1] = ["doctor"]
path = sys.argv.pop()
sys.argv.append(path)
porter.cli.doctor.command.params.append(click.Argument(["path"]))
main()
"""


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_interrupted_run_cleans_up(sent: signal.Signals, code: int, target: Path) -> None:
    """A signal in the middle ends with its code, the old file, and no temporary one."""
    target.write_bytes(OLD)
    command = [sys.executable, "-c", _SLOW, str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"reading\n"
        assert len(content(target)) == 3  # with the lock and the temporary file
        process.send_signal(sent)
        assert process.wait(20) == code
    assert content(target) == {"model.bin": OLD}


def test_every_error_is_of_this_package(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system says about the output is told as one of porter's errors."""

    def refuse(*args: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(PorterError, match="quota exceeded; 3 bytes are needed"):
        publish(target, [b"new"])
    assert content(target) == {}


def test_input_of_the_same_size_may_be_named_by_its_file(target: Path, tmp_path: Path) -> None:
    """Inputs are given as paths or as open files."""
    source = tmp_path / "in"
    source.write_bytes(b"abc")
    with InputFile(source) as file:
        publish(target, [b"new"], inputs=[file, source])
    assert content(target) == {"model.bin": b"new"}
    assert time.time() >= target.stat().st_mtime - 60
