"""What becomes of an output whose proof is refused, stopped or not made."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import porter
from porter.cli import cli, main
from porter.commands import verify as forward
from porter.errors import MissingPackage, SystemFault, UsageError

SMALL = "pvtv2-b0"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A seeded checkpoint."""
    porter.init(SMALL, tmp_path / "a.pth")
    return tmp_path / "a.pth"


def _failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def verify(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(forward, "verify", verify)


def test_a_refused_proof_leaves_nothing(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 2 in the proof removes the output and its record, and the error says so."""
    _failing(monkeypatch, UsageError("does not fit"))
    with pytest.raises(UsageError, match="does not fit; the output was removed"):
        porter.convert(SMALL, source, source.with_name("o.pdparams"))
    assert {path.name for path in source.parent.iterdir()} == {"a.pth", "a.pth.porter.json"}


def test_a_refused_proof_brings_the_file_back_that_was_replaced(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `--force` too, exit code 2 changes nothing: output and record are those of before."""
    output = source.with_name("o.pdparams")
    porter.convert(SMALL, source, output, verify=False)
    before = {path.name: path.read_bytes() for path in source.parent.iterdir()}
    porter.init(SMALL, source, seed=1, force=True)
    changed = {name: source.with_name(name).read_bytes() for name in ("a.pth", "a.pth.porter.json")}
    _failing(monkeypatch, UsageError("does not fit"))
    with pytest.raises(UsageError, match="was removed, and the one before is back"):
        porter.convert(SMALL, source, output, force=True)
    after = {path.name: path.read_bytes() for path in source.parent.iterdir()}
    assert after == before | changed


def test_a_proof_that_passes_leaves_no_second_name(source: Path, tmp_path: Path) -> None:
    """The replaced file is gone when the new one stays, and what a killed process kept."""
    output = tmp_path / "out" / "o.pdparams"
    output.parent.mkdir()
    output.with_name(".o.pdparams.porter-old-1").write_bytes(b"of a process that was killed")
    porter.convert(SMALL, source, output, verify=False)
    porter.convert(SMALL, source, output, force=True)
    assert {path.name for path in output.parent.iterdir()} == {
        "o.pdparams",
        "o.pdparams.porter.json",
    }


def test_a_proof_that_the_machine_refuses_leaves_the_output(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk while the outputs are compared says that the output is there, unproven."""
    _failing(monkeypatch, SystemFault("no space"))
    with pytest.raises(SystemFault, match=r"no space; .*o\.pdparams is written and not proven"):
        porter.convert(SMALL, source, source.with_name("o.pdparams"))
    assert source.with_name("o.pdparams").exists()


@pytest.mark.parametrize(
    ("stopped", "code", "word"),
    [(KeyboardInterrupt(), 130, "interrupted"), (SystemExit(143), 143, "terminated")],
)
def test_an_interrupt_says_what_is_there(
    stopped: BaseException, code: int, word: str,
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Ctrl-C or SIGTERM during the proof names the output, which is complete and not proven."""
    _failing(monkeypatch, stopped)
    output = source.with_name("o.pdparams")
    line = f"porter convert {shlex.quote(str(source))} -o {shlex.quote(str(output))}"
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == code
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last == f"porter: {word}: {output} is written and not proven"
    assert output.exists()


def test_a_required_proof_that_is_not_made_is_an_exit_code(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a framework the output is written, and --require-proof makes the exit code 3."""

    def started(*args: object) -> None:
        raise MissingPackage("run `pip install paddlepaddle`")

    monkeypatch.setattr(forward, "started", started)
    line = ["convert", str(source), "-o", str(source.with_name("o.pdparams")), "--force"]
    assert CliRunner().invoke(cli, line).exit_code == 0
    result = CliRunner().invoke(cli, [*line, "--require-proof"])
    assert result.exit_code == 3
    assert "o.pdparams is written and not proven: run `pip install" in result.output
    result = CliRunner().invoke(cli, [*line, "--require-proof", "--no-verify"])
    assert result.exit_code == 2


def test_a_required_proof_that_is_made_ends_with_0(source: Path) -> None:
    """The same with frameworks."""
    line = ["convert", str(source), "-o", str(source.with_name("o.pdparams")), "--require-proof"]
    result = CliRunner().invoke(cli, line)
    assert result.exit_code == 0, result.output


def test_masks_of_an_adapted_swin_are_computed_and_proven(tmp_path: Path) -> None:
    """Tables and masks that the architecture computes do not fail the proof of other classes."""
    porter.init("swin-tiny-w7-224", tmp_path / "a.pth")
    outcome = porter.convert(
        "swin-tiny-w7-224", tmp_path / "a.pth", tmp_path / "b.pdparams", adapt=True, num_classes=10
    )
    assert outcome.weights is not None
    assert outcome.weights.problems == ()
    assert outcome.proven


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--dry-run --report r.html", "--report needs the proof that --dry-run leaves out"),
        ("--dry-run --require-proof", "--require-proof needs the proof"),
        ("--no-verify --digest sha256 --no-digests", "--digest and --no-digests contradict"),
        ("--no-verify --seed 3", "--seed is of weights that are made"),
        ("--no-verify --fill head.bias=1 --fill head.bias=2", "given two values"),
        ("--no-verify --fold-batchnorm", "--fold-batchnorm is for foreign ONNX models only"),
    ],
)
def test_an_option_without_effect_is_refused(source: Path, options: str, message: str) -> None:
    """An option that is accepted is carried out."""
    output = source.with_name("o.pdparams")
    line = ["convert", SMALL, str(source), "-o", str(output), *shlex.split(options)]
    result = CliRunner().invoke(cli, line)
    assert message in result.output + str(result.exception)
    assert result.exit_code != 0
    assert not output.exists()
