"""Record the wiring of published models: `python -m tests.zoo.record_wiring VARIANT...`.

The class of PaddleX 3.7.2 is
saved as an inference model, with the picture as input and what comes before the postprocessing as
output. What is recorded is which operation reads which tensor; no weight has a part in it.
SLANet, SLANeXt and PP-FormulaNet are published as programs that loop over their output, made by
PaddleOCR's code. A loop is wired as one pass of what is in it; what that code has besides, the head
that places cells and the formula of a norm, is added here.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import paddle
from porter.reference_models import FOLDER

from porter import codecs
from porter.codecs.paddle import operations, wiring
from porter.codecs.paddle.program import parameters
from porter.frameworks.published.paddlex import CLASSES, _class, paddlex
from porter.storage.input_file import InputFile
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import find
from porter.zoo.published import published_config
from porter.zoo.wiring import CONSTANT, render

SIZES = {"uvdoc": (712, 488), "rt_detr": (640, 640), "pp_doclayout_v2": (640, 640),
         "pp_doclayout_v3": (640, 640), "slanet": (488, 488), "slanext": (512, 512),
         "pp_formulanet": (768, 768)}  # fmt: skip
"""Height and width that a kind of model is traced for; others take any."""


class Bare(paddle.nn.Layer):  # type: ignore[misc]
    """A class of PaddleX from a picture to the outputs before postprocessing."""

    def __init__(self, model: Any, kind: str) -> None:
        super().__init__()
        self.model, self.kind = model, kind
        if kind in ("slanet", "slanext"):
            hidden = model.config.hidden_size
            self.places = paddle.nn.Sequential(
                paddle.nn.Linear(hidden, hidden), paddle.nn.Linear(hidden, 8)
            )

    def forward(self, x: Any) -> Any:
        model = self.model
        if self.kind == "pp_lcnet":
            x = model.act_fn(model.last_convolution(model.avg_pool(model.encoder(x))))
            return model.head(model.flatten(x * (1 - model.hidden_dropout_prob)))
        if self.kind == "hgnet_v2":
            return model.fc(model.flatten(model.avg_pool(model.encoder(model.embedder(x))[0])))
        if self.kind == "uvdoc":
            return model.head(paddle.concat(model.backbone(x), axis=1))
        if self.kind == "pp_doclayout_v2":
            found = model.model(x)
            boxes = found["intermediate_reference_points"][:, -1]
            logits = found["intermediate_logits"][:, -1]
            kept = paddle.nn.functional.sigmoid(logits.max(axis=-1)) >= 0.5
            order = paddle.argsort(kept.astype("int32"), axis=1, descending=True)
            labels = paddle.take_along_axis(logits.argmax(axis=-1), order, axis=1)
            places = order.unsqueeze(-1).expand([-1, -1, 4])
            sorted_boxes = paddle.take_along_axis(boxes.clip(0.0, 1.0) * 1000, places, axis=1)
            return boxes, logits, model.reading_order(boxes=sorted_boxes, labels=labels, mask=kept)
        if self.kind in ("slanet", "slanext"):
            return self.table(x)
        if self.kind == "pp_formulanet":
            start = paddle.zeros([1, 1], dtype="int64")
            return model.lm_head(model.model.decoder(start, model.model.encoder(x)))
        if self.kind in SIZES:
            found = model.model(x)
            rest = [found[name] for name in sorted(found) if "mask" in name or "order" in name]
            kept = ("intermediate_reference_points", "intermediate_logits")
            return [*(found[name][:, -1] for name in kept), *rest]
        return model.head(model.model(x))

    def table(self, x: Any) -> Any:
        """Return the first token of a table, and where its cell is."""
        head, features = self.model.head, self.model.backbone(x)
        hidden = paddle.zeros([1, self.model.config.hidden_size])
        first = paddle.zeros([1, self.model.config.out_channels])
        hidden, _ = head.structure_attention_cell(hidden, features, first)
        return head.structure_generator(hidden), self.places(hidden)


def norm_of_channels(self: Any, x: Any) -> Any:
    """Compute a norm over the channels of a map, step by step."""
    centred = x - x.mean(1, keepdim=True)
    normal = centred / paddle.sqrt((centred * centred).mean(1, keepdim=True) + self._epsilon)
    return self.weight[:, None, None] * normal + self.bias[:, None, None]


def built(name: str) -> Any:
    """Return PaddleX's class of a variant."""
    if "formulanet" in name:
        model_class = _class(CLASSES["pp_formulanet"])
        return model_class(model_class.config_class(**published_config(find(name))))
    return paddlex(name)


def record(name: str) -> None:
    """Write the file of one variant."""
    architecture = find(name)
    config = published_config(architecture)
    assert config is not None
    kind = config["model_type"]
    model = built(name)
    keys: dict[str, list[str]] = {}
    for key, tensor in model.state_dict().items():
        keys.setdefault(tensor.name, []).append(key)
    for key, tensor in model.state_dict().items():  # fresh buffers are alike
        tensor.set_value(_noise(key, tensor.shape))
    names = {name: "=".join(shared) for name, shared in keys.items()}
    bare = Bare(model, kind)
    if hasattr(bare, "places"):
        names |= {
            t.name: f"{CONSTANT}loc_generator.{k}" for k, t in bare.places.state_dict().items()
        }
    with tempfile.TemporaryDirectory() as folder:
        save(bare, architecture.sides(), folder)
        names = _with_captured(names, model, codecs.read(f"{folder}/inference.json"))
        with InputFile(f"{folder}/inference.json") as file:
            steps = wiring.steps(operations.program(file), list(parameters(file)))
    named = [replace(s, parameters=tuple(names[n] for n in s.parameters)) for s in steps]
    path = Path(FOLDER) / "wirings" / f"{name}.txt"
    path.write_text(render(named), encoding="utf-8")
    print(path.name, len(steps), "steps")


def save(bare: Bare, sides: Sequence[int], folder: str | Path) -> None:
    """Save a class as an inference model, as PaddleX does."""
    norms = _class("doc_vlm.modeling.GOT_ocr_2_0:GotOcr2LayerNorm")
    for layer in bare.model.sublayers():
        if isinstance(layer, norms) and layer.data_format == "channels_first":
            layer.forward = MethodType(norm_of_channels, layer)
    bare.eval()
    shape = [None, 3, *_sides(sides, bare.kind)]
    spec = [paddle.static.InputSpec(shape, "float32", "x")]
    saved = paddle.jit.to_static(bare, input_spec=spec, full_graph=True)
    paddle.jit.save(saved, f"{folder}/inference")


def _noise(name: str, shape: Sequence[int]) -> Any:
    return np.random.default_rng(list(name.encode())).random(shape, np.float32)


def _with_captured(names: dict[str, str], model: Any, program: StateDict) -> dict[str, str]:
    """Return the names with those of captured buffers, which have others in the program."""
    known = {(t.shape[0], t.numpy().tobytes()): key for key, t in model.state_dict().items()}
    every = dict(names)
    for name in program:
        value = program[name].read()
        if name not in names:
            key = known.get((*value.shape[:1], value.tobytes()))
            every[name] = key or f"{CONSTANT}{len(every)}"
    return every


def _sides(usual: Sequence[int], kind: str) -> Sequence[int | None]:
    if kind in SIZES:
        return SIZES[kind]
    return (usual[0], 320) if kind.endswith("_rec") else (None, None)


if __name__ == "__main__":
    for variant in sys.argv[1:]:
        record(variant)
