"""Traces of models that porter does not define: recorded here, compared elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import porter
from porter import codecs
from porter.cli import cli
from porter.errors import InputError, UsageError
from porter.frameworks import exchange
from porter.tensors.state_dict import StateDict
from porter.verification.live import trace as live_trace

SIDE = {"label": "x:y", "framework": "torch", "dialect": "torch", "file": "", "format": "",
        "weights": []}  # fmt: skip


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["verify", *map(str, arguments)])


def refusal(*arguments: object) -> str:
    """Return the message of a command that refuses; the command line exits with 2 for it."""
    found = run(*arguments)
    if found.exception is None or isinstance(found.exception, SystemExit):
        assert found.exit_code == 2, found.output
        return found.output
    assert isinstance(found.exception, InputError | UsageError), found.exception
    return str(found.exception)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A folder with a model, its table, inputs and two checkpoints."""
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.fc = nn.Linear(4, 3)\n"
        "    def forward(self, x):\n"
        "        return self.fc(x)\n"
    )
    (tmp_path / "net.toml").write_text('[layers]\n"fc" = "linear"\n')
    draw = np.random.default_rng(0)
    np.savez(tmp_path / "x.npz", x=draw.standard_normal((2, 4), np.float32))
    arrays = {"fc.weight": draw.standard_normal((3, 4), np.float32), "fc.bias": np.ones(3, "f4")}
    for name, bias in (("good", 1), ("faulty", 2)):
        state = StateDict.of({**arrays, "fc.bias": arrays["fc.bias"] * bias})
        codecs.write(state, f"{tmp_path}/{name}.safetensors", format="safetensors", record=False)
    return tmp_path


@pytest.fixture
def recorded(net: Path) -> Path:
    trace = net / "trace.safetensors"
    made = run(
        net / "net.toml", net / "good.safetensors", "--left-model", f"{net / 'net.py'}:Net",
        "--inputs", net / "x.npz", "--save-trace", trace, "--json",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    assert json.loads(made.output)["inputs"] == ["given", "drawn anew", "larger"]
    return trace


def test_either_side_may_be_a_trace(net: Path, recorded: Path) -> None:
    """The trace as the source or as the port, and two traces; a faulty checkpoint fails."""
    table, model = net / "net.toml", f"{net / 'net.py'}:Net"
    good, faulty = net / "good.safetensors", net / "faulty.safetensors"
    for asked, code in (
        ((recorded, good, "--right-model", model), 0),
        ((good, recorded, "--left-model", model), 0),
        ((recorded, faulty, "--right-model", model), 1),
        ((recorded, recorded), 0),
    ):
        found = run(table, *asked, "--json")
        assert found.exit_code == code, found.output
        verdict = json.loads(found.output)
        assert verdict["skipped"] == ["weights and seeded weights: a trace has outputs only"]
        assert {side["recorded"] for side in (verdict["left"], verdict["right"])} >= {True}


def test_options_without_effect_are_refused(net: Path, recorded: Path) -> None:
    """A trace has its inputs and has been run; what is recorded has one side."""
    table, good, model = net / "net.toml", net / "good.safetensors", f"{net / 'net.py'}:Net"
    for asked, words in (
        ((recorded, good, "--right-model", model, "--inputs", net / "x.npz"), "leave --inputs out"),
        ((recorded, good, "--right-model", model, "--left-model", model), "which has been run"),
        ((recorded, good), "name it by --right-model"),
        ((good, good, "--left-model", model, "--save-trace", net / "t"), "leave RIGHT out"),
        ((good, "--save-trace", net / "t", "--right-model", model), "options of RIGHT out"),
        ((good, "--save-trace", recorded, "--left-model", model), "exists already"),
        ((good, recorded, "--left-model", model, "--device", "tpu"), "not one of auto, cpu"),
    ):
        assert words in refusal(table, *asked)
    assert not (net / "t").exists()


def test_traces_of_other_inputs_are_refused(net: Path, recorded: Path) -> None:
    """Their outputs say nothing about each other."""
    made = live_trace.load(recorded)
    moved = {case: {n: a + 1 for n, a in given.items()} for case, given in made.cases.items()}
    other = net / "other.safetensors"
    live_trace.save(live_trace.LiveTrace(made.name, made.report, moved, made.outputs), other)
    assert "recorded with different inputs" in refusal(net / "net.toml", recorded, other)


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"live_trace": 9}, "version 9"),
        ({"outputs": {}}, "damaged"),
        ({"outputs": {"float64": {"given": ["out"]}}}, "damaged"),
        ({"cases": {"given": ["y"]}}, "damaged"),
        ({"cases": ["given"]}, "damaged"),
        ({"report": None}, "damaged"),
        ({"report": {"weights": []}}, "damaged"),
        ({"report": SIDE | {"label": 5}}, "not text"),
        ({"report": SIDE | {"versions": {"torch": 2}}}, "not text"),
    ],
)
def test_damaged_traces_are_refused(
    recorded: Path, tmp_path: Path, about: dict[str, object], words: str
) -> None:
    """One line that says so, whatever part of the description is wrong."""
    arrays, whole = exchange.load(recorded)
    broken = tmp_path / "broken.safetensors"
    exchange.save(broken, arrays, whole | about)
    with pytest.raises(InputError, match=words):
        live_trace.load(broken)
    assert live_trace.is_live_trace(broken)


def test_a_file_that_is_cut_off_is_no_trace(recorded: Path, tmp_path: Path) -> None:
    """It is refused as a checkpoint is."""
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(recorded.read_bytes()[:-9])
    assert not live_trace.is_live_trace(cut)


def test_a_published_class_is_recorded_and_compared(tmp_path: Path) -> None:
    """PaddleX's class on one machine, transformers' on another; another variant is refused."""
    source, port, trace = (tmp_path / name for name in ("a.pdparams", "b.safetensors", "t.trace"))
    porter.init("pp-ocrv6-tiny-det", source, to="paddle")
    porter.init("pp-ocrv6-tiny-det", port)
    made = run("pp-ocrv6-tiny-det", source, "--save-trace", trace)
    assert made.exit_code == 0, made.output
    found = run("pp-ocrv6-tiny-det", trace, port, "--json")
    assert found.exit_code == 0, found.output
    limits = {check["limit"] for check in json.loads(found.output)["checks"]}
    assert 1e-8 in limits
    assert "is a trace of pp-ocrv6-tiny-det" in refusal("pp-ocrv6-small-det", trace, port)
