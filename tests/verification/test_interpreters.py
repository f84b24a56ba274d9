"""`--python NAME=PATH`: sides in environments of their own, each with one framework only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from click.testing import CliRunner

from porter import codecs
from porter.cli.verify import command
from porter.commands.verify import verify
from porter.errors import UsageError
from porter.planning.plan import plan
from porter.planning.recognise import shapes_of
from porter.tensors.state_dict import StateDict
from porter.verification.sides import processes
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded

VIT = find("vit-tiny-p16-224")


def environment(folder: Path, *hidden: str) -> Path:
    """Make an environment with the packages of this one but for some; return its interpreter."""
    venv.create(folder, symlinks=True)
    target = Path(sysconfig.get_path("purelib", "venv", {"base": os.fspath(folder)}))
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.lower().startswith(hidden) and not (target / entry.name).exists():
            (target / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    source = StateDict.of(seeded(VIT, num_classes=10, image_size=32).arrays())
    ported = plan(VIT, shapes_of(source), "torch", "paddle", image_size=32).apply(source)
    codecs.write(source, str(folder / "source.pth"), "torch")
    codecs.write(ported, str(folder / "good.pdparams"), "paddle")
    return folder


@pytest.fixture(scope="module")
def pythons(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Interpreters with torch alone, with paddle alone, with neither."""
    folder = tmp_path_factory.mktemp("pythons")
    return {
        "torch": environment(folder / "torch", "paddle"),
        "paddle": environment(folder / "paddle", "torch"),
        "none": environment(folder / "none", "paddle", "torch"),
    }


def run(python: Path, files: Path, *options: str) -> subprocess.CompletedProcess[str]:
    words = ["verify", VIT.name, "source.pth", "good.pdparams", "--batch-sizes", "1", "--json"]
    return subprocess.run(
        [python, "-c", "from porter.cli import main; main()", *words, *options],
        cwd=files, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_each_side_runs_where_its_framework_is(files: Path, pythons: dict[str, Path]) -> None:
    """A machine without frameworks compares two environments that have one each."""
    done = run(
        pythons["none"], files, "--python", f"torch={pythons['torch']}",
        "--python", f"paddle={pythons['paddle']}", "--no-sensitivity",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["status"] == "passed"
    assert "torch" in found["left"]["versions"]
    assert "paddle" in found["right"]["versions"]


def test_a_framework_that_is_nowhere_is_named_with_its_remedy(
    files: Path, pythons: dict[str, Path]
) -> None:
    """Exit code 3, the proof not made, and what to install."""
    for lacking in (pythons["torch"], pythons["none"]):
        done = run(lacking, files)
        assert done.returncode == 3, done.stderr
        found = json.loads(done.stdout)
        assert found["status"] == "not made"
        assert "run `pip install" in found["reason"]


@pytest.mark.posix
def test_a_side_that_crashes_is_one_line(files: Path, tmp_path: Path) -> None:
    """A child killed by a signal, or gone before it answers, ends the command with 3."""
    for script, said in (("kill -SEGV $$", "killed by SIGSEGV"), ("exit 7", "ended with code 7")):
        shim = tmp_path / "python"
        shim.write_text(f"#!/bin/sh\n{script}\n")
        shim.chmod(0o755)
        done = run(Path(sys.executable), files, "--python", f"paddle={shim}")
        assert done.returncode == 3, done.stderr
        (line,) = done.stderr.splitlines()
        assert said in line
        assert done.stdout == ""


def test_an_interpreter_of_another_porter_is_refused(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two versions of porter may speak differently: that is said before anything is loaded."""
    monkeypatch.setattr(processes, "__version__", "99")
    with pytest.raises(UsageError, match=r"has porter .*, not 99"):
        verify(VIT, files / "source.pth", files / "good.pdparams")


@pytest.mark.parametrize("word", ["torhc=/usr/bin/python", "torch"])
def test_a_name_that_runs_nothing_is_refused(word: str) -> None:
    """Only runtimes have interpreters; a slip of the finger would be left unheeded otherwise."""
    made = CliRunner().invoke(command, [VIT.name, "a", "b", "--python", word])
    assert made.exit_code == 2
    assert "NAME one of" in made.output
