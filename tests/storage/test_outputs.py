"""The outputs of a run are looked at together before anything is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from porter.errors import SystemFault, UsageError
from porter.storage.outputs import check_outputs, publish_content


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an input, and links of both kinds to it."""
    (tmp_path / "input").write_bytes(b"weights")
    (tmp_path / "soft").symlink_to("input")
    os.link(tmp_path / "input", tmp_path / "hard")
    return tmp_path


@pytest.mark.parametrize("name", ["input", "soft", "hard"])
def test_no_name_of_an_input_is_an_output(folder: Path, name: str) -> None:
    """The path of an input, and links of both kinds to it, are refused also with force."""
    with pytest.raises(UsageError, match="is the input itself"):
        check_outputs([folder / name], [folder / "input"], force=True)
    with pytest.raises(UsageError, match="is the input itself"):
        publish_content(folder / name, "text", force=True, inputs=[folder / "input"])
    assert (folder / "input").read_bytes() == b"weights"


def test_two_outputs_are_two_files(folder: Path) -> None:
    """The same path written in two ways, two hard links, and the record of an output."""
    (folder / "there").symlink_to(folder)
    for one, two in [("a", "./a"), ("a", "there/a"), ("input", "hard")]:
        with pytest.raises(UsageError, match="is also"):
            check_outputs([f"{folder}/{one}", f"{folder}/{two}"], (), force=True)
    with pytest.raises(UsageError, match="is also"):
        check_outputs([folder / "a.json"], (), force=True, parts=[folder / "there" / "a.json"])
    check_outputs([folder / "a", folder / "b"], [folder / "input", "https://host/x"], force=False)


def test_what_exists_stays_without_force(folder: Path) -> None:
    """A file that is there and a folder are refused; a missing folder is not made."""
    for name, message in [("hard", "exists"), ("", "a folder"), ("none/x", "does not exist")]:
        with pytest.raises(UsageError, match=message):
            check_outputs([folder / name], (), force=False)
    assert not (folder / "none").exists()


def test_content_is_written_through_a_link_and_leaves_nothing_else(folder: Path) -> None:
    """The link stays and the file that it names is replaced; text is UTF-8."""
    publish_content(folder / "soft", "größer", force=True)
    assert (folder / "soft").is_symlink()
    assert (folder / "input").read_bytes() == "größer".encode()
    assert {p.name for p in folder.iterdir()} == {"input", "soft", "hard"}


@pytest.mark.linux
def test_a_full_disk_is_a_fault_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left where there was no room."""
    full = os.statvfs_result((4096, 4096, 10, 0, 0, 10, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    with pytest.raises(SystemFault, match="no space left"):
        publish_content(tmp_path / "a", "text")
    assert list(tmp_path.iterdir()) == []
