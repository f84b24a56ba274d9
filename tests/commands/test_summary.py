"""Results of the library are short in a console and readable in a notebook."""

from __future__ import annotations

from pathlib import Path

import pytest

import porter


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small checkpoint."""
    made = tmp_path_factory.mktemp("summary")
    porter.init("pvtv2-b0", made / "a.pth")
    return made


def test_a_result_is_one_short_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source, the target and the outcome, instead of every tensor."""
    monkeypatch.chdir(folder)
    shape = {"from_": "torch", "to": "paddle", "verify": False}
    dry = porter.convert("pvtv2-b0", "a.pth", "o.pdparams", dry_run=True, **shape)
    assert repr(dry) == ("Conversion(pvtv2-b0: a.pth (torch) → o.pdparams (paddle), not written)")
    done = porter.convert("pvtv2-b0", "a.pth", "o.pdparams", **shape)
    assert repr(done).endswith("o.pdparams (paddle), not proven)")
    assert repr(porter.repack("a.pth", "a.npz")) == (
        "Repacking(a.pth (torch) → a.npz (npz), 178 tensors)"
    )
    assert repr(porter.inspect("a.pth")) == (
        "Inspection(a.pth (torch): 178 tensors, architecture pvtv2-b0 as torch)"
    )
    assert repr(porter.diff("a.pth", "a.npz")) == "Diff(178 tensors by names: equal)"
    assert repr(porter.open("a.pth")) == "StateDict(178 tensors of a.pth)"


def test_a_conversion_is_a_table_in_a_notebook(folder: Path) -> None:
    """The rows of the command, with what users name escaped."""
    source = folder / "a<b>.pth"
    source.write_bytes((folder / "a.pth").read_bytes())
    done = porter.convert(
        "pvtv2-b0", source, folder / "n.pdparams", from_="torch", to="paddle", verify=False
    )
    page = done._repr_html_()
    assert page.startswith("<table>")
    assert "a&lt;b&gt;.pth" in page
    assert "paddle transpose: 41 tensors" in page
