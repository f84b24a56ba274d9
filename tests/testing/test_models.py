"""`assert_equivalent` and `record` on two live models in one process, as users have them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from porter.errors import UsageError
from porter.testing.modules import naming
from porter.testing.recording import named
from porter.verification import trace
from tests.testing.models import IDS, SCALE

SCENARIOS = ("same", "outputs", "transposed", "eps", "half", "both-half", "trace", "float32")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The verdicts of all scenarios, made in one process that has both frameworks."""
    folder = tmp_path_factory.mktemp("models")
    script = Path(__file__).with_name("models.py")
    run = subprocess.run(
        [sys.executable, "-W", "ignore", script, folder, *SCENARIOS],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return {**found, "folder": folder}


@pytest.mark.parametrize("scenario", ["same", "outputs", "half", "both-half", "trace", "float32"])
def test_models_that_compute_the_same_pass(results: dict[str, Any], scenario: str) -> None:
    """Token ids and several arguments in, a dictionary or a tuple out; halves are recognised."""
    assert results[scenario]["status"] == "passed", results[scenario]
    assert results[scenario]["outputs"] == ["logits@scores", "logits@states"]
    assert results[scenario]["tensors"] == (0 if scenario in ("outputs", "trace") else 11)


def test_a_model_that_does_not_run_in_float64_is_compared_in_float32(
    results: dict[str, Any],
) -> None:
    """A note says so, with the framework's reason."""
    (note,) = [note for note in results["float32"]["notes"] if "does not run" in note]
    assert note.startswith("float32 runs are compared: a side does not run in float64 (")


def test_a_fault_is_named_by_its_tensor_or_setting(results: dict[str, Any]) -> None:
    """The table maps tensors and modules, so that findings name the left model's."""
    assert [f[:42] for f in results["transposed"]["findings"]] == [
        "blocks.1.fc.weight matches when transposed"
    ]
    assert results["eps"]["findings"][0].startswith("blocks.1.norm has eps 0.001, not 1e-06")
    assert results["eps"]["status"] == results["transposed"]["status"] == "failed"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_models_come_back_as_they_were(results: dict[str, Any], scenario: str) -> None:
    """Modes, element types, values and the frameworks' settings are those from before."""
    assert results[scenario]["restored"]


def test_a_trace_of_any_model_has_its_arguments(results: dict[str, Any]) -> None:
    """Arguments keep their order and type, outputs theirs, and the trace is read again."""
    made = trace.load(results["folder"] / "trace.safetensors")
    assert made.arguments == ("ids", "scale")
    assert np.array_equal(made.inputs["ids"], IDS)
    assert made.inputs["scale"].dtype == SCALE.dtype
    assert list(made.outputs["float64"]) == ["inputs/logits@states", "inputs/logits@scores"]
    assert made.calls


def test_modules_are_renamed_by_a_dictionary() -> None:
    """An entry counts for the module and those inside it; None leaves them out."""
    name = naming({"stages": "blocks", "stages.0.ln": "blocks.0.norm", "stages.1": None})
    assert [name(p) for p in ("stages", "stages.0.fc", "stages.0.ln", "stages.1.fc", "head")] == [
        "blocks", "blocks.0.fc", "blocks.0.norm", None, "head",
    ]  # fmt: skip
    assert naming(str.upper)("a") == "A"
    assert naming(None)("a") == "a"


@pytest.mark.parametrize("inputs", [None, {}, {"x": np.array([np.nan])}, {"x": np.array(["a"])}])
def test_inputs_that_are_not_numbers_are_refused(inputs: Any) -> None:
    """A model that porter does not know has no default inputs."""
    with pytest.raises(UsageError, match="input"):
        named(inputs)
