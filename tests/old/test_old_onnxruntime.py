"""ONNX Runtime as it is deployed: versions of years ago run what porter writes for them.

Run by `make old` and by CI, which installs one version after another.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import porter
from porter import codecs
from porter.onnx.export.opsets import OPSETS
from porter.tensors.state_dict import StateDict
from tests.golden.cases import Case
from tests.old.golden import CASES, LIMIT

NEWEST = {"1.15": 18, "1.16": 19, "1.17": 20, "1.18": 21, "1.19": 21}
"""{version: the newest operator set that it runs}; 1.15 has no Shape of opset 19."""
VERSION = ".".join(ort.__version__.split(".")[:2])


@pytest.mark.parametrize("name", CASES)
def test_an_old_runtime_computes_the_golden_logits(name: str, tmp_path: Path) -> None:
    """In every operator set that the version knows, loaded with no more than it knows."""
    case = Case(name)
    source = tmp_path / "m.safetensors"
    codecs.write(StateDict.of(case.weights()), str(source), "safetensors")
    for opset in range(OPSETS.start, NEWEST[VERSION] + 1):
        model = tmp_path / f"{opset}.onnx"
        porter.convert(case.variant, source, model, from_="safetensors", to="onnx", verify=False,
                       onnx={"opset": opset})  # fmt: skip
        session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {"image": case.image()})
        error = np.abs(found - case.logits).max() / np.sqrt((case.logits**2).mean())
        assert error < LIMIT, opset
        model.unlink()
