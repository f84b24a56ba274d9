"""Input files: only regular ones, read by position, watched for change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from porter.errors import InputError
from porter.storage import input_file
from porter.storage.input_file import InputFile, open_beside


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "a.bin"
    made.write_bytes(bytes(range(100)))
    return made


def test_reads_what_was_asked(path: Path) -> None:
    """Bytes come from where they were asked, into new memory or into a buffer."""
    with InputFile(path) as file:
        assert file.pread(10, 3) == b"\x0a\x0b\x0c"
        buffer = bytearray(4)
        file.pread_into(96, buffer)
        assert bytes(buffer) == bytes(range(96, 100))


@pytest.mark.parametrize(("offset", "size"), [(99, 2), (-1, 1), (0, -1), (1 << 62, 1 << 62)])
def test_refuses_what_is_not_there(path: Path, offset: int, size: int) -> None:
    """A range outside of the file is an error that names both lengths."""
    with InputFile(path) as file, pytest.raises(InputError, match="the file has 100"):
        file.pread(offset, size)


@pytest.mark.parametrize(("offset", "size"), [(99, 2), (100, 1), (-1, 1)])
def test_refuses_to_fill_from_what_is_not_there(path: Path, offset: int, size: int) -> None:
    """A buffer that reaches beyond the file is not begun with."""
    buffer = bytearray(size)
    with InputFile(path) as file, pytest.raises(InputError, match="the file has 100"):
        file.pread_into(offset, buffer)
    assert buffer == bytes(size)


@pytest.mark.posix
def test_file_that_changes_fills_no_buffer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the bytes ends with a look at the file, also where there are none left."""
    with InputFile(path) as file:
        descriptor = file.fileno()
        file.close()
        file.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
    file = InputFile(path)
    path.write_bytes(bytes(101))
    with pytest.raises(InputError, match="changed while it was being read"):
        file.pread_into(0, bytearray(4))
    monkeypatch.setattr(os, "preadv", lambda *_: 0)
    with pytest.raises(InputError, match="changed while it was being read"):
        file.pread_into(0, bytearray(4))


@pytest.mark.linux
def test_file_is_closed_where_it_is_left(path: Path) -> None:
    """At the end of a block, and when nothing holds it any more."""
    before = os.listdir("/proc/self/fd")
    with InputFile(path) as file:
        assert os.listdir("/proc/self/fd") != before
    assert os.listdir("/proc/self/fd") == before
    assert file.size == 100
    other = InputFile(path)
    assert os.listdir("/proc/self/fd") != before
    del other
    assert os.listdir("/proc/self/fd") == before


def test_a_page_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of a page come out of memory; those before it, behind it or longer are read."""
    (tmp_path / "a").write_bytes(bytes(range(250)) * 40)
    taken: list[tuple[int, int]] = []
    pread = InputFile.pread

    def counted(file: InputFile, offset: int, nbytes: int) -> bytes:
        taken.append((offset, nbytes))
        return pread(file, offset, nbytes)

    monkeypatch.setattr(InputFile, "pread", counted)
    monkeypatch.setattr(input_file, "_PAGE", 100)
    data = (tmp_path / "a").read_bytes()
    window = input_file.Window(InputFile(tmp_path / "a"))
    for offset, nbytes, reads in (
        (50, 10, [(50, 100)]),
        (50, 10, []),
        (55, 95, []),
        (149, 1, []),
        (149, 2, [(149, 100)]),
        (148, 1, [(148, 100)]),
        (148, 300, [(148, 300)]),
        (9990, 10, [(9990, 10)]),
        (9999, 1, []),
    ):
        assert window.pread(offset, nbytes) == data[offset : offset + nbytes]
        assert taken == reads
        taken.clear()


def test_descriptor_zero_is_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the standard input is closed, the first file that is opened gets its number."""
    closed: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "close", closed.append)
        file = InputFile(path)
        opened, file._fd = file._fd, 0
        file.close()
    os.close(opened)
    assert closed == [0]


@pytest.mark.posix
def test_each_byte_is_read_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short read is one call; one that would come in parts is begun in parts."""
    calls: list[str] = []
    pread, preadv = os.pread, os.preadv
    monkeypatch.setattr(os, "pread", lambda *args: calls.append("pread") or pread(*args))
    monkeypatch.setattr(os, "preadv", lambda *args: calls.append("preadv") or preadv(*args))
    monkeypatch.setattr(input_file, "_LARGEST_READ", 7)
    with InputFile(path) as file:
        assert file.pread(3, 7) == bytes(range(3, 10))
        assert calls == ["pread"]
        assert file.pread(3, 8) == bytes(range(3, 11))
        assert calls == ["pread", "preadv", "preadv"]


@pytest.mark.posix
@pytest.mark.parametrize("kind", ["folder", "pipe", "nothing", "dangling", "device"])
def test_refuses_what_is_no_file(kind: str, tmp_path: Path) -> None:
    """Folders, pipes, devices and links to nothing are refused without waiting."""
    where = tmp_path / "x"
    if kind == "folder":
        where.mkdir()
    elif kind == "pipe":
        os.mkfifo(where)
    elif kind == "dangling":
        where.symlink_to("gone")
    elif kind == "device":
        where.symlink_to("/dev/zero")
    told = {"nothing": "no such file", "dangling": "is a link to nothing"}.get(kind, "not a file")
    with pytest.raises(InputError, match=f"x: .*{told}"):
        InputFile(where)


def test_name_with_nul_is_refused() -> None:
    """A NUL in a path is an error of the input, not a crash."""
    with pytest.raises(InputError, match="NUL"):
        InputFile("a\0b")


@pytest.mark.parametrize("change", ["cut", "grow", "rewrite"])
def test_notices_a_change(change: str, path: Path) -> None:
    """A file that changes under the reader is refused at the next read."""
    with InputFile(path) as file:
        if change == "cut":
            os.truncate(path, 50)
        elif change == "grow":
            os.truncate(path, 200)
        else:
            os.utime(path, ns=(1, 1))
        with pytest.raises(InputError, match=r"changed|ends"):
            file.pread(0, 100)


@pytest.mark.posix
def test_named_files_stay_below(tmp_path: Path) -> None:
    """What a file names may lie beside it or below, and nowhere else."""
    model = tmp_path / "m" / "model.onnx"
    (tmp_path / "m" / "sub").mkdir(parents=True)
    model.write_bytes(b"x")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "m" / "sub" / "w").write_bytes(b"weights")
    (tmp_path / "m" / "out").symlink_to("../secret")
    (tmp_path / "m" / "down").symlink_to("sub/w")
    os.link(tmp_path / "secret", tmp_path / "m" / "hard")
    assert open_beside(str(model), "sub/w", hard_links=False).pread(0, 7) == b"weights"
    assert open_beside(str(model), "down", hard_links=False).pread(0, 7) == b"weights"
    assert open_beside(str(model), "hard", hard_links=True).pread(0, 6) == b"secret"
    for name in ("../secret", "sub/../../secret", "/etc/passwd", "..\\secret", "out", "", "a\0"):
        with pytest.raises(InputError, match="names the file"):
            open_beside(str(model), name, hard_links=True)
    with pytest.raises(InputError, match="second name"):
        open_beside(str(model), "hard", hard_links=False)


@pytest.mark.posix
def test_cache_of_links_is_readable(tmp_path: Path) -> None:
    """A model that is a link into a store may name links into the same store."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    for name in ("index", "shard"):
        (tmp_path / "blobs" / name).write_bytes(name.encode())
        (tmp_path / "snapshot" / name).symlink_to(f"../blobs/{name}")
    found = open_beside(str(tmp_path / "snapshot" / "index"), "shard", hard_links=True)
    assert found.pread(0, 5) == b"shard"
