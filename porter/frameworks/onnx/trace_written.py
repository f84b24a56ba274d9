"""Trace a model whose decoder writes token by token: one step, put into a Loop.

PP-FormulaNet of transformers. The encoder runs before the Loop, and so does what the decoder reads
of it; keys and values of the tokens before are the state of the Loop. Runs in a child process
(`porter.frameworks.onnx.tools`).
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

from porter.errors import UsageError
from porter.frameworks.models import need
from porter.frameworks.onnx import trace as fixed
from porter.frameworks.onnx.loop import ENDED, State, looped, node
from porter.frameworks.onnx.trace_published import _model
from porter.zoo.architectures import Architecture
from porter.zoo.image_size import Size

_WRITTEN, _SCORES = "written", "scores"
_BEFORE = 5
"""Tokens that the example has written; no other size of it."""


def trace(
    architecture: Architecture, path: str | os.PathLike[str], *, image_size: Size, opset: int
) -> None:
    """Write a template to `path`; its graph gives tokens and their scores, (batch, steps).

    It begins with the token that the class begins with, which is not given, and takes the most
    probable one at each step. After the end token it gives the padding token, and 0 as a score.
    """
    for package in ("torch", "onnxscript", "onnx", "transformers"):
        need(package)
    import onnx
    import torch
    from onnx import TensorProto

    model = _model(torch, architecture)
    state = {name: value.detach() for name, value in model.state_dict().items()}
    text = model.config.text_config
    states = _states(text)
    model.forward = _step(torch, model)
    example, shapes = _example(torch, text, architecture.sides(image_size))
    try:
        exported = torch.export.export(model, example, dynamic_shapes=(shapes,), strict=False)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UsageError(f"the graph of {architecture.name} cannot be traced: {error}") from error
    program = torch.onnx.export(
        exported, (), dynamo=True, optimize=False, opset_version=opset,
        input_names=[fixed.INPUT, *(one.name for one in states)], verbose=False,
        output_names=[_SCORES, *(f"next_{one.name}" for one in states)],
    )  # fmt: skip
    assert program is not None
    proto = onnx.load_from_string(fixed._finish(program.model, state, architecture))
    kinds = {_WRITTEN: TensorProto.INT64, _SCORES: TensorProto.FLOAT}
    scans = {_WRITTEN: (f"next_{_WRITTEN}", kinds[_WRITTEN]), _SCORES: (_SCORES, kinds[_SCORES])}
    looped(proto, states, text.max_position_embeddings - 1, scans)  # as many as PaddleX writes
    _give(proto.graph, dict(zip(architecture.graph.outputs, kinds.items(), strict=True)))
    with open(path, "wb") as file:
        file.write(gzip.compress(proto.SerializeToString(deterministic=True), 9, mtime=0))


def _states(text: Any) -> list[State]:
    """Return what one step gives the next: the token, whether it was the last, keys and values."""
    from onnx import TensorProto

    heads = text.decoder_attention_heads
    dims = (heads, 0, text.d_model // heads)
    return [
        State(_WRITTEN, TensorProto.INT64, first=text.decoder_start_token_id),
        State(ENDED, TensorProto.BOOL),
        *(
            State(f"{kind}_{layer}", TensorProto.FLOAT, dims)
            for layer in range(text.decoder_layers)
            for kind in ("keys", "values")
        ),
    ]


def _example(torch: Any, text: Any, sides: tuple[int, int]) -> tuple[Any, Any]:
    """Return inputs of a step, and which of their sizes are symbols."""
    batch = torch.export.Dim("n", min=1, max=1 << 16)
    length = torch.export.Dim("length", min=1, max=text.max_position_embeddings)
    heads = text.decoder_attention_heads
    kept = [torch.zeros(2, heads, _BEFORE, text.d_model // heads)] * (2 * text.decoder_layers)
    example = (
        torch.zeros(2, 3, *sides), torch.zeros(2, dtype=torch.long),
        torch.zeros(2, dtype=torch.bool), *(tensor.clone() for tensor in kept),
    )  # fmt: skip
    shapes = ({0: batch}, {0: batch}, {0: batch}, *({0: batch, 2: length} for _ in kept))
    return example, shapes


def _step(torch: Any, model: Any) -> Any:
    """Return the forward pass of one step: the class's layers on one token."""
    text, decoder, encoder = model.config.text_config, model.model.decoder, model.model.encoder
    for layer in decoder.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.forward = partial(_rows, torch, layer)

    def run(image: Any, written: Any, ended: Any, *kept: Any) -> Any:
        hidden = encoder(pixel_values=image).pooler_output
        cache, token = _Cache(torch, kept), written[:, None]
        x = decoder.embed_tokens(token) + decoder.embed_positions(token, kept[0].shape[2])
        x = decoder.layernorm_embedding(x)
        for layer in decoder.layers:
            x = layer(x, None, hidden, cache=cache)  # one token sees all before it: no mask
        scores = model.lm_head(decoder.layer_norm(x)[:, 0])
        written = torch.where(ended, text.pad_token_id, scores.argmax(-1))
        best = torch.where(ended, 0.0, scores.log_softmax(-1).amax(-1))
        return best, written, ended | written.eq(text.eos_token_id), *cache.kept

    return lambda *given: run(*given)


def _rows(torch: Any, layer: Any, x: Any) -> Any:
    """Compute a linear layer of a batch of sequences as that of a matrix.

    The exporter writes this as Gemm, which reads a weight as it is: no step has to transpose it.
    """
    rows = x.reshape(-1, layer.in_features)
    found = torch.nn.functional.linear(rows, layer.weight, layer.bias)
    return found.reshape(-1, x.shape[1], layer.out_features)


class _Cache:
    """Keys and values of the tokens before, in the place of transformers' cache."""

    def __init__(self, torch: Any, kept: Sequence[Any]) -> None:
        self._torch = torch
        self.kept = list(kept)
        self._grown: set[int] = set()

    def update(self, keys: Any, values: Any, layer: int, **_: Any) -> tuple[Any, Any]:
        """Return those of all tokens; a layer's second call reads the encoder, which is whole."""
        if layer in self._grown:
            return keys, values
        self._grown.add(layer)
        places = slice(2 * layer, 2 * layer + 2)
        pairs = zip(self.kept[places], (keys, values), strict=True)
        self.kept[places] = [self._torch.cat(pair, 2) for pair in pairs]
        return self.kept[2 * layer], self.kept[2 * layer + 1]


def _give(graph: Any, outputs: dict[str, tuple[str, int]]) -> None:
    """Add the outputs: {name: (what the Loop gives, its type)}, by picture."""
    from onnx import helper

    for name, (scan, kind) in outputs.items():
        graph.node.append(node("Transpose", [f"/{scan}"], [name], perm=[1, 0]))
        graph.output.append(helper.make_tensor_value_info(name, kind, ["batch", "steps"]))
