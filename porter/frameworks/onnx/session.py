"""The commands of a worker of ONNX Runtime: load and run a whole model.

It has neither float64 nor modules, so the other commands of a torch or paddle worker are missing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from porter import __version__
from porter.frameworks import exchange
from porter.frameworks.models import need
from porter.frameworks.onnx import run as onnx_run
from porter.frameworks.runner import device_for


class OnnxSession:
    """One model over the life of a worker."""

    def __init__(self) -> None:
        need("onnxruntime")
        self._device = "cpu"
        self._session: Any = None

    def hello(self, device: str) -> dict[str, Any]:
        """Return the versions, and the device after choosing it."""
        import onnxruntime as ort

        # ONNX Runtime does not report the number of devices: the session refuses a wrong one.
        count = 64 if "CUDAExecutionProvider" in ort.get_available_providers() else 0
        device = device_for(device, "onnxruntime", count)
        self._device = device
        versions = {"porter": __version__, "onnxruntime": ort.__version__}
        return {"versions": versions, "device": device}

    def load(self, weights: str, **_: Any) -> dict[str, Any]:
        """Load the model `weights`; arguments for other frameworks are ignored."""
        self._session = onnx_run.session(weights, self._device)
        return {"tensors": {}}

    def run(self, inputs: str, output: str, precision: str, **_: Any) -> dict[str, Any]:
        """Run each case of the file `inputs`; the first output is the logits."""
        arrays, _about = exchange.load(inputs)
        results = {}
        for case, array in arrays.items():
            results[f"output/{case}/logits"] = next(
                iter(onnx_run.outputs(self._session, array).values())
            )
        exchange.save(output, results, {"precision": precision})
        return {}


def commands() -> dict[str, Callable[..., dict[str, Any]]]:
    """Return the commands of this worker."""
    session = OnnxSession()
    return {"hello": session.hello, "load": session.load, "run": session.run}
