"""OpenVINO, a second runtime, computes what ONNX Runtime does.

Run by CI in an environment that has it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino
import pytest

import porter
from porter import codecs
from porter.tensors.state_dict import StateDict
from tests.golden.cases import Case
from tests.old.golden import CASES, LIMIT


@pytest.mark.parametrize("name", CASES)
def test_openvino_computes_the_golden_logits(name: str, tmp_path: Path) -> None:
    """The first operator set, the last of each kind of graph, and the newest."""
    case = Case(name)
    source = tmp_path / "m.safetensors"
    codecs.write(StateDict.of(case.weights()), str(source), "safetensors")
    for opset in (11, 16, 20, 23):
        model = tmp_path / f"{opset}.onnx"
        porter.convert(case.variant, source, model, from_="safetensors", to="onnx", verify=False,
                       onnx={"opset": opset})  # fmt: skip
        hint = {"INFERENCE_PRECISION_HINT": "f32"}
        found = openvino.compile_model(model, "CPU", hint)([case.image()])[0]
        error = np.abs(found - case.logits).max() / np.sqrt((case.logits**2).mean())
        assert error < LIMIT, opset
        model.unlink()
