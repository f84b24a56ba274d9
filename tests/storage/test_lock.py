"""One writer at a time for each output, whether locks are taken one by one or in a series."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from porter.errors import SystemFault
from porter.storage.lock import Series, after_kill, hidden, locked


def test_series_locks_one_output_after_the_other(tmp_path: Path) -> None:
    """The output that is written is locked, those before are free, and nothing is left over."""
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    series = Series()
    with series.locked(one), pytest.raises(SystemFault, match="another process"), locked(one):
        pass
    with series.locked(two):
        with locked(one):
            pass
        with pytest.raises(SystemFault, match="another process"), Series().locked(two):
            pass
    series.close()
    assert list(tmp_path.iterdir()) == []


def test_series_does_not_take_what_another_has(tmp_path: Path) -> None:
    """Neither as its first output nor as a later one."""
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    series = Series()
    with locked(two):
        with pytest.raises(SystemFault, match="another process"), series.locked(two):
            pass
        with series.locked(one):
            pass
        with pytest.raises(SystemFault, match="another process"), series.locked(two):
            pass
    series.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("series", [True, False])
def test_lock_of_a_killed_series_is_of_one_output(tmp_path: Path, series: bool) -> None:
    """A file that was left under two names locks neither of them for the other."""
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    Path(hidden(one, "lock")).touch()
    os.link(hidden(one, "lock"), hidden(two, "lock"))
    with Series().locked(one) if series else locked(one):
        assert after_kill.get()
        with locked(two):
            assert after_kill.get()
    assert list(tmp_path.iterdir()) == []
