"""A small network in torch and paddle, under other names, and its table; runs as a script.

`python models.py FOLDER SCENARIO…` compares both sides in one process, as a test of a port does,
and prints the verdict and what has become of the models as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

TABLE = """
family = "small"

[layers]
"embed" = "embedding"
"blocks.{i}.norm" = "norm"
"blocks.{i}.fc" = "linear"
"head" = "linear"

[dialects.port]
framework = "paddle"
[dialects.port.names]
"embed" = "tokens"
"blocks.{i}.norm" = "stages.{i}.ln"
"blocks.{i}.fc" = "stages.{i}.dense"
"head" = "classifier"
"""
IDS = np.array([[1, 2, 3, 4], [5, 6, 7, 0]])
SCALE = np.linspace(0.5, 1.5, 8, dtype=np.float32).reshape(2, 4)


def torch_model(constant: bool = False) -> Any:
    """Return the network in torch; it returns a dictionary and is left in training mode.

    With a `constant` in float32 it does not run in float64.
    """
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(16, eps=1e-6)
            self.fc = nn.Linear(16, 16)

        def forward(self, x: Any) -> Any:
            return x + torch.nn.functional.gelu(self.fc(self.norm(x)))

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(8, 16)
            self.drop = nn.Dropout(0.5)
            self.blocks = nn.ModuleList([Block(), Block()])
            self.head = nn.Linear(16, 5)

        def forward(self, ids: Any, scale: Any) -> Any:
            x = self.drop(self.embed(ids) * scale.unsqueeze(-1))
            x = torch.nn.functional.linear(x, torch.eye(16)) if constant else x
            for block in self.blocks:
                x = block(x)
            return {"states": x, "scores": self.head(x.mean(1))}

    torch.manual_seed(0)
    model = Small().train()
    model.blocks[0].eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
    return model


def paddle_model(weights: dict[str, Any], eps: float = 1e-6) -> Any:
    """Return the network in Paddle with torch's weights; it returns a tuple."""
    import paddle
    from paddle import nn

    class Stage(nn.Layer):  # type: ignore[misc]
        def __init__(self, eps: float) -> None:
            super().__init__()
            self.ln = nn.LayerNorm(16, epsilon=eps)
            self.dense = nn.Linear(16, 16)

        def forward(self, x: Any) -> Any:
            return x + nn.functional.gelu(self.dense(self.ln(x)))

    class Small(nn.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(8, 16)
            self.stages = nn.LayerList([Stage(1e-6), Stage(eps)])
            self.classifier = nn.Linear(16, 5)

        def forward(self, ids: Any, scale: Any) -> Any:
            x = self.tokens(ids) * scale.unsqueeze(-1)
            for stage in self.stages:
                x = stage(x)
            return x, self.classifier(x.mean(1))

    names = {
        "embed": "tokens",
        "blocks": "stages",
        "norm": "ln",
        "fc": "dense",
        "head": "classifier",
    }
    model = Small()
    values = {}
    for name, value in weights.items():
        array = value.detach().float().numpy()
        if name.endswith(("fc.weight", "head.weight")):
            array = array.T
        values[".".join(names.get(part, part) for part in name.split("."))] = array
    missing, unexpected = model.set_state_dict(
        {k: paddle.to_tensor(v.copy()) for k, v in values.items()}
    )
    assert not missing
    assert not unexpected
    return model


def main(folder: Path, scenario: str) -> dict[str, Any]:
    """Compare the two models, one of them changed as the scenario says."""
    import paddle
    import torch

    from porter.testing import NotEquivalent, assert_equivalent, record

    (folder / "small.toml").write_text(TABLE)
    model = torch_model(scenario == "float32")
    other = paddle_model(model.state_dict(), eps=1e-3 if scenario == "eps" else 1e-6)
    if scenario == "transposed":
        weight = other.stages[1].dense.weight
        weight.set_value(weight.numpy().T.copy())
    if scenario == "half":
        other = other.to(dtype="float16")
    if scenario == "both-half":
        model, other = model.half(), other.to(dtype="float16")
    dtype = other.classifier.weight.dtype
    before = {n: (str(v.dtype), v.clone()) for n, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    inputs = {"ids": IDS, "scale": SCALE}
    left: Any = model
    path = folder / f"{scenario}.safetensors"
    if scenario == "trace":
        record(model, path, inputs=inputs)
        left = path
    try:
        table = None if scenario in ("trace", "outputs") else folder / "small.toml"
        verdict = assert_equivalent(left, other, table, inputs)
    except NotEquivalent as error:
        verdict = error.verdict
    after = model.state_dict()
    return {
        "status": verdict.status,
        "reason": verdict.reason,
        "notes": list(verdict.notes),
        "findings": [str(finding) for finding in verdict.findings],
        "outputs": sorted({check.output for check in verdict.checks}),
        "tensors": len(verdict.tensors),
        "restored": modes == [m.training for m in model.modules()]
        and all(str(after[n].dtype) == d and bool((after[n] == v).all())
                for n, (d, v) in before.items())
        and all(p.dtype == dtype for p in other.parameters())
        and paddle.get_default_dtype() == "float32"
        and torch.get_deterministic_debug_mode() == 0
        and all(layer.training for layer in other.sublayers()),
    }  # fmt: skip


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    print(json.dumps({scenario: main(folder, scenario) for scenario in sys.argv[2:]}))
