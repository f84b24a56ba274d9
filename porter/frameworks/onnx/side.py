"""ONNX Runtime as one side of a comparison: a whole model, run as it is.

It has no float64 and no modules: what a worker of torch or paddle can be asked beyond running
does not exist here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from porter import __version__
from porter.frameworks import exchange
from porter.frameworks.models import need
from porter.frameworks.onnx.run import outputs, session
from porter.frameworks.side import device_for


class OnnxSession:
    """One model over the life of a worker."""

    def __init__(self) -> None:
        need("onnxruntime")
        self._device = "cpu"
        self._session: Any = None

    def hello(self, device: str) -> dict[str, Any]:
        """Return the versions, and the device after choosing it."""
        import onnxruntime as ort

        # ONNX Runtime does not say how many devices there are: the session refuses one too many.
        count = 64 if "CUDAExecutionProvider" in ort.get_available_providers() else 0
        device = device_for(device, "onnxruntime", count)
        self._device = device
        versions = {"porter": __version__, "onnxruntime": ort.__version__}
        return {"versions": versions, "device": device}

    def load(self, weights: str, **_: Any) -> dict[str, Any]:
        """Load the model `weights`; what else a framework would be told is in the file."""
        self._session = session(weights, self._device)
        return {"tensors": {}}

    def run(self, inputs: str, output: str, precision: str, **_: Any) -> dict[str, Any]:
        """Run each case of the file `inputs`; the first output is the logits."""
        arrays, _about = exchange.load(inputs)
        found = {}
        for case, array in arrays.items():
            found[f"output/{case}/logits"] = next(iter(outputs(self._session, array).values()))
        exchange.save(output, found, {"precision": precision})
        return {}


def commands() -> dict[str, Callable[..., dict[str, Any]]]:
    """Return what this worker can be asked."""
    made = OnnxSession()
    return {"hello": made.hello, "load": made.load, "run": made.run}
