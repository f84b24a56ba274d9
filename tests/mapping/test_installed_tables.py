"""Tables that other packages bring are found by their names."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from porter.errors import TableError
from porter.mapping import reader

TABLE = 'family = "{}"\n[layers]\n"fc" = "linear"\n'


def test_a_package_brings_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the working directory comes first, a name with a folder is only that file."""
    (tmp_path / "brought").mkdir()
    (tmp_path / "brought" / "zoo.toml").write_text(TABLE.format("brought"))
    folders: list[object] = [tmp_path / "brought"]
    entry = EntryPoint("zoo", "zoo:FOLDER", reader.GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda self: folders[0])
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [entry])
    monkeypatch.chdir(tmp_path)
    assert reader.load(Path("zoo.toml")).family == "brought"
    with pytest.raises(TableError, match="cannot be read"):
        reader.load(Path("other/zoo.toml"))
    (tmp_path / "zoo.toml").write_text(TABLE.format("here"))
    assert reader.load(Path("zoo.toml")).family == "here"
    folders[0] = 3
    with pytest.raises(TableError, match="is not a folder"):
        reader.load(Path("more.toml"))
