"""One writer at a time for each output, whether locks are taken one by one or in a series."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from porter.errors import SystemFault
from porter.storage.lock import Series, after_kill, hidden, locked


def is_locked(path: str) -> bool:
    """Whether another writer is refused."""
    with suppress(SystemFault), locked(path):
        return False
    return True


def test_series_locks_several_outputs(tmp_path: Path) -> None:
    """All that were taken are locked until it is closed; nothing is left over."""
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    series = Series()
    assert series.take(one)
    assert is_locked(one)
    assert series.take(two)
    assert (is_locked(one), is_locked(two)) == (True, True)
    assert not Series().take(two)
    series.close()
    assert list(tmp_path.iterdir()) == []
    assert series.take(one)
    series.close()
    assert not is_locked(one)


def test_series_does_not_take_what_another_has(tmp_path: Path) -> None:
    """Neither as its first output nor as a later one."""
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    series = Series()
    with locked(two):
        assert not series.take(two)
        assert series.take(one)
        assert not series.take(two)
        assert is_locked(one)
    series.close()
    assert list(tmp_path.iterdir()) == []


def test_lock_of_a_killed_series_is_of_one_output(tmp_path: Path) -> None:
    """A file that was left under two names locks neither of them for the other."""
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    Path(hidden(one, "lock")).touch()
    os.link(hidden(one, "lock"), hidden(two, "lock"))
    assert not Series().take(one)  # Left for who looks for other files that are left.
    with locked(one):
        assert after_kill.get()
        with locked(two):
            assert after_kill.get()
    assert list(tmp_path.iterdir()) == []


def test_folder_of_an_output_is_made(tmp_path: Path) -> None:
    """A name that cannot be one is refused."""
    with locked(str(tmp_path / "a/b/out")):
        assert [p.name for p in (tmp_path / "a/b").iterdir()] == [".out.porter-lock"]
    (tmp_path / "file").touch()
    with pytest.raises(SystemFault, match="cannot be written"), locked(str(tmp_path / "file/out")):
        pass
