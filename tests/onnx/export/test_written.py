"""Graphs that write token by token: PP-FormulaNet's Loop against transformers' class."""

from __future__ import annotations

import gzip
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from porter.frameworks.onnx import run, trace_published, trace_written
from porter.frameworks.published import transformers as published
from porter.zoo.architectures import find

VARIANT = find("pp-formulanet-l-shallow")
SIDE, STEPS, END, PADDING = 128, 23, 2, 1
SMALL = {
    "architectures": ["PPFormulaNetForConditionalGeneration"],
    "model_type": "pp_formulanet",
    "text_config": {
        "d_model": 32, "decoder_attention_heads": 4, "decoder_ffn_dim": 64, "decoder_layers": 2,
        "vocab_size": 9, "max_position_embeddings": STEPS + 1,
    },
    "vision_config": {
        "image_size": SIDE, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
        "window_size": 3, "global_attn_indexes": [1], "mlp_dim": 32, "output_channels": 8,
        "post_conv_in_channels": 8, "post_conv_mid_channels": 12, "post_conv_out_channels": 16,
        "decoder_hidden_size": 32,
    },
}  # fmt: skip
"""A net of the same classes that runs in no time."""


@dataclass
class Case:
    """The graph, the class with the same weights, and pictures."""

    path: Path
    model: Any
    weights: dict[str, np.ndarray]
    pictures: np.ndarray

    def by_class(self, pictures: np.ndarray) -> dict[str, np.ndarray]:
        with torch.no_grad():
            found = published._written(
                self.model, self.model.forward, STEPS, torch.from_numpy(pictures)
            )
        return {name: value.numpy() for name, value in found.items()}

    def by_graph(self, session: Any, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        tokens, scores = session.run(None, {"image": pictures, **self.weights})
        return tokens, scores


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Return the graph of the small net as it is traced, and weights."""
    folder = tmp_path_factory.mktemp("written")
    variant = replace(VARIANT, image_size=SIDE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace_published, "published_config", lambda *_: SMALL)
        trace_written.trace(variant, folder / "t.gz", image_size=SIDE, opset=20)
        model = trace_published._model(torch, variant)
    path = folder / "small.onnx"
    path.write_bytes(gzip.decompress((folder / "t.gz").read_bytes()))
    draw = np.random.default_rng(0)
    weights = {
        name: draw.standard_normal(tuple(tensor.shape)).astype(np.float32) * 0.5
        for name, tensor in model.state_dict().items()
    }
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    return Case(path, model, weights, draw.standard_normal((6, 3, SIDE, SIDE), np.float32))


def test_every_tensor_is_a_weight_as_it_is(case: Case) -> None:
    """Inputs are the picture and the tensors of the class; the graph is sound."""
    graph = onnx.load(case.path).graph
    onnx.checker.check_model(str(case.path), full_check=True)
    image, *weights = graph.input
    shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in weights}
    assert image.name == "image"
    assert shapes == {name: array.shape for name, array in case.weights.items()}
    assert [v.name for v in graph.output] == list(VARIANT.graph.outputs)


def test_no_step_transposes_a_weight(case: Case) -> None:
    """Linear layers in the Loop read their weights as they are stored."""
    loop = next(n for n in onnx.load(case.path).graph.node if n.op_type == "Loop")
    nodes = loop.attribute[0].g.node
    turned = [n.name for n in nodes if n.op_type == "Transpose" and n.input[0] in case.weights]
    assert not turned
    assert sum(n.op_type == "Gemm" for n in nodes) == 2 * (4 + 2 + 2) + 1


def test_the_tokens_are_those_of_the_class(case: Case) -> None:
    """Formulas of different lengths in one batch, and each by itself."""
    session = ort.InferenceSession(str(case.path))
    wanted = case.by_class(case.pictures)
    tokens, scores = case.by_graph(session, case.pictures)
    np.testing.assert_array_equal(tokens, wanted["written"])
    np.testing.assert_allclose(scores, wanted["scores"], atol=1e-4)
    lengths = set()
    for row, picture in enumerate(case.pictures):
        alone, _ = case.by_graph(session, picture[None])
        count = alone.shape[1]
        lengths.add(count)
        np.testing.assert_array_equal(alone[0], tokens[row, :count])
        assert (tokens[row, count:] == PADDING).all()
        assert (scores[row, count:] == 0).all()
        assert count == STEPS or alone[0, -1] == END
        assert END not in alone[0, :-1]
    assert len(lengths) > 2
    assert tokens.shape[1] == max(lengths)


def test_the_tokens_are_those_that_the_class_generates(case: Case) -> None:
    """As its own `generate` writes them: the first token before them, the last one forced."""
    tokens, _ = case.by_graph(ort.InferenceSession(str(case.path)), case.pictures)
    with torch.no_grad():
        found = case.model.generate(
            pixel_values=torch.from_numpy(case.pictures), max_length=STEPS + 1, do_sample=False
        ).numpy()
    assert found.shape[1] == tokens.shape[1] + 1
    assert (found[:, 0] == case.model.config.text_config.decoder_start_token_id).all()
    np.testing.assert_array_equal(found[:, 1:-1], tokens[:, :-1])


def test_a_proof_runs_the_first_steps_only(case: Case) -> None:
    """The same tokens, and no more of them."""
    tokens, _ = case.by_graph(ort.InferenceSession(str(case.path)), case.pictures)
    short, _ = case.by_graph(run._short(str(case.path), 3), case.pictures)
    np.testing.assert_array_equal(short, tokens[:, :3])
