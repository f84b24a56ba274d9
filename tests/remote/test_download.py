"""A file that is fetched whole is there complete, or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from porter.errors import InputError, SystemFault
from porter.remote import download, fetch, http_store
from tests.remote.conftest import BODY, Site, good


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where copies go."""
    monkeypatch.setenv("PORTER_CACHE_DIR", str(tmp_path))
    return tmp_path


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("chunked", [True, False])
def test_a_dropped_connection_is_gone_on_with(
    site: Site, folder: Path, ranges: bool, chunked: bool
) -> None:
    """With ranges the rest is asked for, without them the file from its beginning."""
    site.cuts, site.chunked, site.ranges = [1000, 2000], chunked, ranges
    assert Path(fetch.local(good(site)).path).read_bytes() == BODY
    assert site.sent == (len(BODY) if ranges else len(BODY) + 3000)


def test_progress_reaches_the_length(site: Site) -> None:
    """The callback hears of every byte, and of how many there will be."""
    seen: list[tuple[str, int, int]] = []
    fetch.local(good(site), progress=lambda *values: seen.append(values))
    assert seen[-1] == ("downloading", len(BODY), len(BODY))


def test_a_length_that_never_comes_is_an_error(site: Site, folder: Path) -> None:
    """A server that announces more than it sends leaves no file."""
    site.said_length, site.ranges = len(BODY) + 1000, False
    with pytest.raises(SystemFault, match="was cut"):
        fetch.local(good(site))
    assert not files(folder)


def test_a_wrong_digest_leaves_nothing(site: Site, folder: Path) -> None:
    """The file that came is not the file that was meant."""
    with pytest.raises(InputError, match="its sha256 is"):
        fetch.local(f"{good(site)}#sha256={'0' * 64}")
    assert not files(folder)


def test_a_full_disk_is_seen_before_the_download(
    site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes needed and the bytes there are said, and not one is fetched."""
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=70 << 20))
    site.said_length, site.ranges = 10 << 20, False
    with pytest.raises(SystemFault, match=r"has 10,485,760 bytes, .* has room for .*TMPDIR"):
        fetch.local(good(site))


def test_an_answer_without_end_leaves_the_reserve(
    site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body without announced length is given up, and removed, before the disk is full."""
    usage = shutil.disk_usage("/")

    def free(path: str) -> object:
        used = sum(file.stat().st_size for file in files(folder))
        return usage._replace(free=download.RESERVE + 100_000 - used)

    monkeypatch.setattr(shutil, "disk_usage", free)
    monkeypatch.setattr(download, "_BLOCK", 4096)
    site.chunked, site.ranges = True, False
    site.files["/dir/model.safetensors"] = bytes(1 << 22)
    with pytest.raises(SystemFault, match=r"has sent .*has room for.*TMPDIR"):
        fetch.local(good(site))
    assert not files(folder)


def test_a_folder_that_cannot_be_written_is_one_line(
    site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path is named, and what names another."""

    def refuse(*_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(download, "_from_store", refuse)
    wanted = "cannot be written: Permission denied .PORTER_CACHE_DIR or TMPDIR"
    with pytest.raises(SystemFault, match=wanted):
        fetch.local(good(site))


def test_a_cache_that_is_a_file_is_one_line(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder that was named is said, and the file in its place stays."""
    taken = tmp_path / "taken"
    taken.write_bytes(b"mine")
    monkeypatch.setenv("PORTER_CACHE_DIR", str(taken))
    with pytest.raises(SystemFault, match=r"taken.*cannot be written: .*PORTER_CACHE_DIR"):
        fetch.local(f"{good(site)}#sha256={'0' * 64}")
    assert taken.read_bytes() == b"mine"


def test_attempts_are_counted(site: Site, folder: Path) -> None:
    """A server that always breaks off is given up."""
    site.ranges, site.cuts = False, [10] * 20
    with pytest.raises(SystemFault, match="cut at byte 10"):
        fetch.local(good(site))
    assert len(site.cuts) == 20 - http_store.ATTEMPTS


@pytest.mark.parametrize("tags", [True, False])
def test_one_command_fetches_a_whole_file_once(site: Site, tags: bool) -> None:
    """A server without ranges sends it once while its tag is the same, else each time."""
    site.ranges = False
    if not tags:
        site.etag = site.modified = None
    done: list[int] = []
    for _ in range(3):
        assert list(fetch.read(good(site), progress=lambda _, now, total: done.append(now)))
    assert done.count(len(BODY)) == (1 if tags else 3)
    site.etag = '"two"'
    site.files["/dir/model.safetensors"] = changed = BODY[:-4] + bytes(4)
    assert Path(fetch.local(good(site)).path).read_bytes() == changed
