"""The commands of a worker of ONNX Runtime: load and run a whole model.

It has no float64, and of modules only their outputs: the other commands of a torch or paddle
worker are missing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from porter import __version__
from porter.frameworks import exchange
from porter.frameworks.models import need
from porter.frameworks.onnx import run as onnx_run
from porter.frameworks.runner import Recording, device_for
from porter.tensors.blocks import Array


class OnnxSession:
    """One model over the life of a worker."""

    def __init__(self) -> None:
        need("onnxruntime")
        self._device = "cpu"
        self._path = ""
        self._session: Any = None
        self._pixels: Mapping[str, Any] | None = None

    def hello(self, device: str) -> dict[str, Any]:
        """Return the versions, and the device after choosing it."""
        import onnxruntime as ort

        # ONNX Runtime does not report the number of devices: the session refuses a wrong one.
        count = 64 if "CUDAExecutionProvider" in ort.get_available_providers() else 0
        device = device_for(device, "onnxruntime", count)
        self._device = device
        versions = {"porter": __version__, "onnxruntime": ort.__version__}
        return {"versions": versions, "device": device}

    def load(
        self, weights: str, pixels: Mapping[str, Any] | None = None, **_: Any
    ) -> dict[str, Any]:
        """Load the model `weights`; arguments for other frameworks are ignored.

        With `pixels`, `mean`, `std` and `channels` of what its graph does, it takes RGB bytes.
        """
        self._pixels = pixels
        self._path = weights
        self._session = onnx_run.session(weights, self._device)
        return {"tensors": {}}

    def run(
        self,
        inputs: str,
        output: str,
        precision: str,
        layers: str = "",
        limit: int | None = None,
        marked: str = "",
        places: Mapping[str, Sequence[str]] | None = None,
        every: bool = False,
        **_: Any,
    ) -> dict[str, Any]:
        """Run each case of the file `inputs`; the first output is the logits.

        With `every`, all outputs are written under their own names.

        The precision is that of the model. "float64" is asked of the left one of two models: it
        is run without the runtime's optimisations then. In the case named `layers`, values of the
        model `marked` are recorded, whose outputs they are: {place: (value, kind)}.
        """
        arrays, _about = exchange.load(inputs)
        plain = precision == "float64"
        session = onnx_run.session(self._path, self._device, plain=True) if plain else self._session
        results: dict[str, Array] = {}
        for case, array in arrays.items():
            given = self._given(array)
            found = onnx_run.outputs(session, given, self._path)
            named = found if every else {"logits": next(iter(found.values()))}
            results |= {f"output/{case}/{name}": array for name, array in named.items()}
        about: dict[str, Any] = {"precision": precision}
        if places:
            outside = os.path.dirname(os.path.abspath(self._path))
            session = onnx_run.session(marked, self._device, plain=plain, outside=outside)
            recording = _recorded(
                onnx_run.outputs(session, self._given(arrays[layers]), self._path), places, limit
            )
            results |= {f"layer/{place}": array for place, array in recording.layers.items()}
            about |= {"layers": list(recording.layers), "shapes": recording.shapes,
                      "kinds": recording.kinds}  # fmt: skip
        exchange.save(output, results, about)
        return {}

    def _given(self, array: Array) -> Array:
        return array if self._pixels is None else _as_bytes(array, self._pixels)


def _recorded(
    found: Mapping[str, Array], places: Mapping[str, Sequence[str]], limit: int | None
) -> Recording:
    recording = Recording()
    for place, (value, kind) in places.items():
        recording.keep(place, kind, {"": found[value]}, limit)
    return recording


def _as_bytes(image: Array, pixels: Mapping[str, Any]) -> Array:
    """Return RGB pixels, uint8 (N, height, width, 3), of normalised ones (N, 3, height, width)."""
    mean, std = (np.asarray(pixels[name], np.float64) for name in ("mean", "std"))
    shown = (image.transpose(0, 2, 3, 1) * std + mean) * 255
    shown = shown[..., ::-1] if pixels["channels"] == "BGR" else shown
    return np.clip(np.rint(shown), 0, 255).astype(np.uint8)


def commands() -> dict[str, Callable[..., dict[str, Any]]]:
    """Return the commands of this worker."""
    session = OnnxSession()
    return {"hello": session.hello, "load": session.load, "run": session.run}
