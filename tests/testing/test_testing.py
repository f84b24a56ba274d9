"""`porter.testing` and its pytest plugin, on a live model of one's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
    """A good trace passes, a wrong eps is named in the exception, both are reported."""
    pytester.makepyfile(TESTS.format(folder=os.fspath(traces)))
    result = pytester.runpytest_subprocess("--porter-report=out.json", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=2)
    good = json.loads((pytester.path / "out.test_good.json").read_text())
    wrong = json.loads((pytester.path / "out.test_eps.json").read_text())
    assert good["status"] == "passed"
    assert wrong["status"] == "failed"
    assert [f["place"] for f in wrong["findings"]] == ["blocks.4.norm2"]


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
