"""A prefix chooses one of several models in a file, wherever a checkpoint is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import porter
from porter import codecs
from porter.cli import cli
from porter.commands.verify import record
from porter.errors import MappingError, UsageError

SMALL = "pvtv2-b0"
PAIR = "pair.pth"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student and a teacher in one file, compiled, and each as a file of its own."""
    path = tmp_path_factory.mktemp("prefix")
    both = {}
    for seed, name in enumerate(("student", "teacher")):
        porter.init(SMALL, path / f"{name}.pth", seed=seed)
        state = torch.load(path / f"{name}.pth", weights_only=True)
        both.update({f"_orig_mod.{name}.{key}": value for key, value in state.items()})
    torch.save({"model": both, "epoch": 3}, path / PAIR)
    return path


def test_verify_takes_a_prefix_of_each_side(folder: Path) -> None:
    """The teacher in the pair is the teacher, and not the student."""
    line = ["verify", SMALL, str(folder / PAIR), str(folder / "teacher.pth"), "--no-sensitivity"]
    line += ["--no-diagnose", "--batch-sizes", "1"]
    assert "--left-prefix teacher." in str(CliRunner().invoke(cli, line).exception)
    assert CliRunner().invoke(cli, [*line, "--left-prefix", "teacher"]).exit_code == 0
    assert CliRunner().invoke(cli, [*line, "--left-prefix", "student."]).exit_code == 1


def test_diff_takes_a_prefix_of_each_side(folder: Path) -> None:
    """Names are compared below the prefix, wrapper words left out."""
    pair, teacher = folder / PAIR, folder / "teacher.pth"
    assert porter.diff(pair, teacher, left_prefix="teacher").equal
    assert not porter.diff(pair, teacher, left_prefix="student").equal
    assert not porter.diff(pair, pair, left_prefix="student", right_prefix="teacher.").equal
    line = ["diff", str(teacher), str(pair), "--right-prefix", "teacher"]
    assert CliRunner().invoke(cli, line).exit_code == 0


def test_load_model_takes_a_prefix(folder: Path) -> None:
    """The model below it is loaded."""
    model = porter.load_model(SMALL, folder / PAIR, prefix="teacher")
    truth = codecs.read(str(folder / "teacher.pth"))
    for name, value in model.state_dict().items():
        assert np.array_equal(value.numpy(), truth[name].read()), name


def test_a_prefix_that_names_nothing_is_refused(folder: Path) -> None:
    """The first parts of the names that are there are listed."""
    with pytest.raises(UsageError, match=r"no names begin with 'x'; there are student\., teacher"):
        porter.load_model(SMALL, folder / PAIR, prefix="x")
    with pytest.raises(UsageError, match="no names begin with"):
        porter.diff(folder / PAIR, folder / PAIR, right_prefix="x")


def test_a_trace_has_no_prefix(folder: Path) -> None:
    """An option that cannot be carried out is refused."""
    trace = folder / "t.safetensors"
    record(SMALL, folder / "teacher.pth", trace)
    with pytest.raises(UsageError, match="is a trace"):
        porter.verify(SMALL, folder / "teacher.pth", trace, right_prefix="teacher")


def test_a_prefix_may_be_spelled_as_in_the_file(folder: Path, tmp_path: Path) -> None:
    """`--prefix _orig_mod.teacher` where the wrapper word is removed from every name."""
    truth = codecs.read(str(folder / "teacher.pth"))
    for number, prefix in enumerate(("_orig_mod.teacher", "_orig_mod.teacher.", "teacher")):
        output = tmp_path / f"{number}.safetensors"
        porter.convert(None, folder / PAIR, output, to="torch", verify=False, prefix=prefix)
        found = codecs.read(str(output))
        assert all(np.array_equal(found[name].read(), truth[name].read()) for name in truth)
    with pytest.raises(UsageError, match=r"no names begin with 'module\.teacher'"):
        porter.convert(
            SMALL, folder / PAIR, tmp_path / "o.pth", from_="torch", verify=False,
            prefix="module.teacher",
        )  # fmt: skip


def test_a_classifier_that_is_called_otherwise_is_named(folder: Path, tmp_path: Path) -> None:
    """A backbone below its prefix and the head under another name: it says where the head is."""
    state = torch.load(folder / "teacher.pth", weights_only=True)
    named = {name.replace("head.", "head.fc.") if name.startswith("head.") else f"backbone.{name}":
             tensor for name, tensor in state.items()}  # fmt: skip
    torch.save({"state_dict": named}, tmp_path / "a.pth")
    with pytest.raises(MappingError, match=r"the classifier is missing.*left out: head\.fc\."):
        porter.convert(SMALL, tmp_path / "a.pth", tmp_path / "o.pth", verify=False, to="torch")
