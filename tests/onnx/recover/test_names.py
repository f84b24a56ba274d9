"""A model of another make, with the names of another library, is read by its names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from porter.onnx.recover.read import recover
from porter.planning.fit import fit
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded
from tests.onnx.recover.test_recover import exported

NAME = "vit-tiny-p16-224"


def whole_softmax(scores: torch.Tensor) -> torch.Tensor:
    """Softmax over the keys as one operation, as the template has it."""
    return scores.softmax(-1)


def softmax_in_pieces(scores: torch.Tensor) -> torch.Tensor:
    """The same function by other operations: another graph."""
    found = scores.exp()
    return found / found.sum(-1, keepdim=True)


class Layer(nn.Module):
    """A block with q, k and v apart, as transformers has it; its modules are named by a table."""

    def __init__(self, state: dict[str, torch.Tensor], prefix: str, *, whole: bool) -> None:
        super().__init__()
        self.weigh = whole_softmax if whole else softmax_in_pieces
        attention = (f"attention.{leaf}" for leaf in ("q_proj", "k_proj", "v_proj", "o_proj"))
        linears = (*attention, "mlp.fc1", "mlp.fc2")
        for path in linears:
            _attach(self, path, _linear(state, f"{prefix}{path}"))
        for path in ("layernorm_before", "layernorm_after"):
            _attach(self, path, _norm(state, f"{prefix}{path}"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        own = self.attention
        y = self.layernorm_before(x)
        heads = [
            project(y).unflatten(-1, (3, 64)).transpose(1, 2)
            for project in (own.q_proj, own.k_proj, own.v_proj)
        ]
        scores = heads[0] @ heads[1].transpose(-1, -2) / 8.0
        x = x + own.o_proj((self.weigh(scores) @ heads[2]).transpose(1, 2).flatten(2))
        hidden = nn.functional.gelu(self.mlp.fc1(self.layernorm_after(x)))
        return x + self.mlp.fc2(hidden)


class Foreign(nn.Module):
    """ViT as transformers names it."""

    def __init__(self, state: dict[str, torch.Tensor], *, whole: bool) -> None:
        super().__init__()
        self.vit = nn.Module()
        self.vit.embeddings = nn.Module()
        for leaf in ("cls_token", "position_embeddings"):
            value = nn.Parameter(state[f"vit.embeddings.{leaf}"])
            self.vit.embeddings.register_parameter(leaf, value)
        patches = "vit.embeddings.patch_embeddings.projection"
        conv = nn.Conv2d(3, 192, 16, 16)
        conv.load_state_dict({leaf: state[f"{patches}.{leaf}"] for leaf in ("weight", "bias")})
        _attach(self, patches, conv)
        layers = [Layer(state, f"vit.layers.{i}.", whole=whole) for i in range(12)]
        _attach(self, "vit.layers", nn.ModuleList(layers))
        self.vit.layernorm = _norm(state, "vit.layernorm")
        self.classifier = _linear(state, "classifier")

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        own = self.vit.embeddings
        x = own.patch_embeddings.projection(image).flatten(2).transpose(1, 2)
        x = torch.cat([own.cls_token.expand(x.shape[0], -1, -1), x], 1) + own.position_embeddings
        for layer in self.vit.layers:
            x = layer(x)
        return self.classifier(self.vit.layernorm(x)[:, 0])


def _attach(root: nn.Module, path: str, module: nn.Module) -> None:
    *parents, leaf = path.split(".")
    for parent in parents:
        if not hasattr(root, parent):
            setattr(root, parent, nn.Module())
        root = getattr(root, parent)
    setattr(root, leaf, module)


def _linear(state: dict[str, torch.Tensor], path: str) -> nn.Linear:
    weight = state[f"{path}.weight"]
    made = nn.Linear(weight.shape[1], weight.shape[0])
    made.load_state_dict({"weight": weight, "bias": state[f"{path}.bias"]})
    return made


def _norm(state: dict[str, torch.Tensor], path: str) -> nn.LayerNorm:
    made = nn.LayerNorm(192, 1e-6)
    made.load_state_dict({leaf: state[f"{path}.{leaf}"] for leaf in ("weight", "bias")})
    return made


def foreign_file(path: Path, *, whole: bool) -> Path:
    """Export seeded weights as transformers would name and cut them."""
    architecture, state = find(NAME), seeded(find(NAME))
    foreign = fit(architecture, state, "torch", "hf-v5").plan.apply(state)
    weights = {n: torch.from_numpy(np.array(t.read(), order="C")) for n, t in foreign.items()}
    return exported(Foreign(weights, whole=whole).eval(), path, "torchscript")


def is_seeded(state: StateDict) -> bool:
    """Whether a state dict is the canonical seeded one, bit for bit."""
    return all(
        np.array(state[name].read()).tobytes() == np.array(tensor.read()).tobytes()
        for name, tensor in seeded(find(NAME)).items()
    )


def test_another_graph_under_other_names_becomes_the_canonical_one(tmp_path: Path) -> None:
    """Its graph is not the template's; biases and module paths name what lost its name."""
    found = recover(find(NAME), foreign_file(tmp_path / "m.onnx", whole=False))
    assert "hf" in found.how[0]
    assert is_seeded(found.state)


def test_split_attention_without_any_names_becomes_the_canonical_one(tmp_path: Path) -> None:
    """q, k and v are layers of their own: by what they do they are the parts of one."""
    path = foreign_file(tmp_path / "m.onnx", whole=True)
    model = onnx.load(path)
    names = {tensor.name: f"w{i}" for i, tensor in enumerate(model.graph.initializer)}
    for tensor in model.graph.initializer:
        tensor.name = names[tensor.name]
    for node in model.graph.node:
        node.name = ""
        node.input[:] = [names.get(name, name) for name in node.input]
    onnx.save(model, path)
    found = recover(find(NAME), path)
    assert "by what the graph does" in found.how[0]
    assert is_seeded(found.state)
