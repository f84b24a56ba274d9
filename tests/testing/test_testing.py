"""`porter.testing` and its pytest plugin, on a live model of one's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from porter.verification.sides.report import SideReport
from porter.verification.trace import Trace, save

pytest_plugins = ["pytester"]

SCRIPT = """
import sys
import numpy as np
from porter.zoo.architectures import find
from porter.frameworks.models import build
from porter.frameworks.fill import fill
from porter.zoo.seeded import seeded
from porter.testing import record
from porter.verification.inputs import noise

folder, framework = sys.argv[1:]
variant = find("vit-tiny-p16-224")
weights = seeded(variant, num_classes=10, image_size=32)
model = build(variant, "torch", num_classes=10, image_size=32)
fill(model, weights, "torch")
record(model, folder + "/good.safetensors", architecture=variant.name, image_size=32,
       inputs=noise([3], [2], 32))
model.blocks[4].norm2.eps = 1e-5
record(model, folder + "/eps.safetensors", architecture=variant.name, image_size=32,
       inputs=noise([3], [2], 32))
model.blocks[4].norm2.eps = 1e-6
record(model.half(), folder + "/half.safetensors", architecture=variant.name, image_size=32,
       inputs=noise([3], [2], 32))
"""

TESTS = """
import pytest
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded
from porter.testing import NotEquivalent, assert_equivalent

FOLDER = {folder!r}

def source():
    return seeded(find("vit-tiny-p16-224"), num_classes=10, image_size=32)

def test_good():
    assert assert_equivalent("vit-tiny-p16-224", source(), FOLDER + "/good.safetensors").passed

def test_half():
    verdict = assert_equivalent("vit-tiny-p16-224", source(), FOLDER + "/half.safetensors")
    assert any("rounded to float16" in note for note in verdict.notes)

def test_eps():
    with pytest.raises(NotEquivalent, match="blocks.4.norm2 has eps 1e-05, not 1e-06"):
        assert_equivalent("vit-tiny-p16-224", source(), FOLDER + "/eps.safetensors")
"""


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Traces of a model that is right and of one whose eps is wrong in one place."""
    folder = tmp_path_factory.mktemp("traces")
    subprocess.run([sys.executable, "-c", SCRIPT, folder, "torch"], check=True)
    return folder


def test_assert_equivalent_and_the_report_option(traces: Path, pytester: pytest.Pytester) -> None:
    """A good trace passes, one in halves too, a wrong eps is named; all are reported."""
    pytester.makepyfile(TESTS.format(folder=os.fspath(traces)))
    result = pytester.runpytest_subprocess("--porter-report=out.json", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=3)
    good = json.loads((pytester.path / "out.test_good.json").read_text())
    wrong = json.loads((pytester.path / "out.test_eps.json").read_text())
    assert good["status"] == "passed"
    assert wrong["status"] == "failed"
    assert [f["place"] for f in wrong["findings"]] == ["blocks.4.norm2"]


MIXED = """
import os
from pathlib import Path
import pytest
from porter.testing import assert_equivalent

def test_good():
    assert_equivalent(Path("good.trace"), Path("good.trace"))

@pytest.mark.parametrize("case", [1, 2])
def test_other(case):
    if os.environ.get("FAULT") == "verdict":
        assert_equivalent(Path("good.trace"), Path("wrong.trace"))
    if os.environ.get("FAULT") == "refused":
        assert_equivalent(Path("good.trace"), Path("none.trace"))
    if os.environ.get("FAULT") == "plain":
        assert case == 0
    if os.environ.get("FAULT") == "crash":
        os._exit(9)
"""


@pytest.fixture
def mixed(pytester: pytest.Pytester) -> pytest.Pytester:
    """A file with a test whose verdict passes and others that fail as FAULT says."""
    pytester.makepyfile(MIXED)
    batch = np.ones((2, 3))
    for name, value in (("good", batch), ("wrong", -batch)):
        runs = {precision: {"inputs/logits": value} for precision in ("float64", "float32")}
        report = SideReport(f"torch {name}", "torch", "", "", "", recorded=True)
        made = Trace(report, "", 0, 0, {"x": batch}, runs, arguments=("x",))
        save(made, pytester.path / f"{name}.trace")
    return pytester


@pytest.mark.parametrize(
    ("fault", "workers", "rows"),
    [
        ("verdict", "-n0", ["passed", "failed", "failed"]),
        ("plain", "-n1", ["passed", "failed", "failed"]),
        ("refused", "-n1", ["passed", "not made", "not made"]),
        ("crash", "-n1", None),
        ("crash", "-n0", None),
    ],
)  # fmt: skip
def test_a_run_that_fails_leaves_no_green_report(
    mixed: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, workers: str, fault: str,
    rows: list[str] | None,
) -> None:  # fmt: skip
    """The report of an earlier run goes away; verdicts of workers arrive, crashes count."""
    (mixed.path / "out.json").write_text('{"passed": true}')
    monkeypatch.setenv("FAULT", fault)
    result = mixed.runpytest_subprocess(workers, "--porter-report=out.json")
    assert result.ret != 0
    path = mixed.path / "out.json"
    if fault == "crash" and workers == "-n0":
        assert not path.exists()
        return
    report = json.loads(path.read_text())
    assert report["passed"] is False
    found = {row["test"].rpartition("::")[2]: row["status"] for row in report["rows"]}
    if rows is not None:
        assert [found[name] for name in sorted(found)] == rows
    assert found["test_good"] == "passed"
    assert json.loads((mixed.path / "out.test_good.json").read_text())["passed"] is True


@pytest.mark.parametrize("workers", ["-n0", "-n1"])
def test_the_only_verdict_of_a_run_is_its_report(mixed: pytest.Pytester, workers: str) -> None:
    """Every kind of report is written, by whichever process the test has run in."""
    result = mixed.runpytest_subprocess(
        workers, "--porter-report=out.json", "--porter-report=out.html"
    )
    result.assert_outcomes(passed=3)
    assert json.loads((mixed.path / "out.json").read_text())["schema"] == "porter.verdict/1"
    assert "the two sides compute the same" in (mixed.path / "out.html").read_text()


@pytest.mark.parametrize("suffix", [".md", ".html", ".json", ".xml"])
def test_a_run_without_a_verdict_is_not_green(pytester: pytest.Pytester, suffix: str) -> None:
    """Tests that pass and compare nothing prove nothing."""
    pytester.makepyfile("def test_nothing(): pass")
    result = pytester.runpytest_subprocess(f"--porter-report=out{suffix}")
    result.assert_outcomes(passed=1)
    text = (pytester.path / f"out{suffix}").read_text()
    assert "no verdict was made" in text
    assert not any(mark in text for mark in ("✅", "✓", '"passed": true', 'failures="0"'))


def test_the_plugin_is_light(pytester: pytest.Pytester) -> None:
    """A run of tests that do not use porter does not import its parts."""
    pytester.makepyfile(
        "import sys\n"
        "def test_light():\n"
        "    loaded = [n for n in sys.modules if n.startswith('porter.')]\n"
        "    assert sorted(loaded) == ['porter.testing', 'porter.testing.plugin']\n"
        "    assert 'numpy' not in sys.modules\n"
    )
    pytester.runpytest_subprocess("-p", "no:hypothesispytest").assert_outcomes(passed=1)


def test_a_report_of_unknown_kind_is_refused(pytester: pytest.Pytester) -> None:
    """The option is checked before a test runs."""
    result = pytester.runpytest_subprocess("--porter-report=out.pdf")
    assert result.ret != 0


def test_a_trace_is_compared_on_another_machine(traces: Path, tmp_path: Path) -> None:
    """`porter verify` takes a trace for a side, and refuses a file that is none."""
    from porter.errors import InputError
    from porter.verification import trace

    assert trace.is_trace(traces / "good.safetensors")
    made = trace.load(traces / "good.safetensors")
    assert made.report.recorded
    assert set(made.outputs) == {"float32", "float64"}
    assert made.calls
    other = tmp_path / "plain.safetensors"
    other.write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    assert not trace.is_trace(other)
    with pytest.raises(InputError):
        trace.load(other)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    """Only modules of torch and layers of paddle can be recorded."""
    from porter.errors import UsageError
    from porter.testing import record

    with pytest.raises(UsageError, match="neither"):
        record(object(), tmp_path / "x.safetensors", architecture="vit-tiny-p16-224")
