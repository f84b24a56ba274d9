"""Names, metadata and paths reach terminals and logs escaped; closed streams harm nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from porter.cli.layout import columns, wrapped
from porter.cli.output import say_json
from porter.errors import json_escaped, visible

HOSTILE = "w\x1b[31m\x07\n::error::forged\u202e\x9b1m ##[error]x ##vso[task.complete]"
RUN = [sys.executable, "-P", "-c", "from porter.cli import main; main()"]


@given(st.text(st.characters(exclude_categories=())))
def test_visible_text_is_one_line_without_commands(text: str) -> None:
    """Nothing in it acts on a terminal or a build's log, it can be encoded, and it stays."""
    shown = visible(text)
    assert all(c.isprintable() or c == "\xa0" for c in shown)
    assert "::" not in shown
    assert visible(shown) == shown
    shown.encode()


@given(st.text(st.characters(exclude_categories=())))
def test_escaped_json_is_the_same_value(text: str) -> None:
    """Lone surrogates and control characters are written as JSON writes them."""
    escaped = json_escaped(json.dumps({text: text}, ensure_ascii=False))
    assert json.loads(escaped) == {text: text}
    escaped.encode()


def test_rows_and_lines_are_escaped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cells, wrapped text and JSON, at any width."""
    for width in ("0", "24", "300"):
        monkeypatch.setenv("COLUMNS", width)
        for text in (columns([("name", HOSTILE), (HOSTILE, "x")]), wrapped(HOSTILE)):
            assert all(c.isprintable() or c == "\n" for c in text)
            assert "::error" not in text
            assert "##[" not in text
            assert "##vso[" not in text
    say_json({HOSTILE: "\udcff"})
    out = capsys.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in out)
    assert json.loads(out) == {HOSTILE: "\udcff"}


@pytest.mark.parametrize(
    "line", ["inspect h --tensors", "diff h s", "inspect h --key w\x1b[31m::error::x",
             "table infer h s", "repack h -o ::error::o.npz", "diff ::error:: s"],
)  # fmt: skip
def test_a_hostile_file_prints_nothing_raw(tmp_path: Path, line: str) -> None:
    """Of what a file says, no control character and no line of its own is printed."""
    save_file({HOSTILE: np.ones(2, np.float32)}, tmp_path / "h",
              {"note": HOSTILE})  # fmt: skip
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "s")
    done = subprocess.run([*RUN, *line.split(" ")], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode in (0, 1, 2), done.stderr
    text = (done.stdout + done.stderr).decode()
    assert text
    assert all(c.isprintable() or c == "\n" for c in text)
    assert not any(row.lstrip().startswith("::") for row in text.splitlines())


@pytest.mark.posix
@pytest.mark.parametrize("streams", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_closed_streams_are_not_taken_by_files(tmp_path: Path, streams: str) -> None:
    """An output does not get the number of a closed stream, nor what is printed in it."""
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "s")
    shell = ["sh", "-c", f'"$@" {streams}', "sh", *RUN]
    done = subprocess.run([*shell, "repack", "s", "-o", "o.npz"], cwd=tmp_path, check=False)
    assert done.returncode == 0
    assert sorted(np.load(tmp_path / "o.npz")) == ["a"]
    assert {p.name for p in tmp_path.iterdir()} == {"s", "o.npz", "o.npz.porter.json"}


@pytest.mark.linux
def test_a_full_standard_output_is_a_fault_of_the_system() -> None:
    """What cannot be printed ends with 3 and one line."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*RUN, "list"], stdout=full, stderr=subprocess.PIPE, text=True,
                              check=False)  # fmt: skip
    assert done.returncode == 3
    assert done.stderr.splitlines() == ["porter: No space left on device"]


@pytest.mark.posix
def test_a_reader_that_has_gone_is_no_success() -> None:
    """The exit code does not say that a result was printed which nobody has read."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*RUN, "list"], stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")
