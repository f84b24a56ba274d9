"""The exhibits of docs/museum.md: a small network in torch and Paddle, and twelve silent faults.

Runs as a script: `python models.py FOLDER` prints, for each exhibit, what the origin's own check
finds and what porter finds, as JSON. No code of the projects is used: each exhibit rebuilds the
mechanism only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import torch
from torch import nn

from porter.errors import MappingError
from porter.testing import NotEquivalent, assert_equivalent

State = dict[str, np.ndarray[Any, Any]]
WIDTH, HIDDEN, EXPERTS, WORDS = 16, 24, 3, 20
IDS = np.array([[1, 2, 3, 4, 5], [19, 7, 0, 11, 2]])
TABLE = """
family = "small"

[tensors]
"blocks.{i}.experts" = "parameter"

[layers]
"embed" = "embedding"
"blocks.{i}.{n:norm1,norm2}" = "norm"
"blocks.{i}.qkv" = "attention"
"blocks.{i}.{n:proj,gate,up,down}" = "linear"
"norm" = "norm"
"head" = "linear"

[dialects.theirs]
framework = "torch"
[dialects.theirs.names]
"blocks.{i}.gate" = "blocks.{i}.mlp.gate_proj"
"blocks.{i}.up" = "blocks.{i}.mlp.up_proj"
"blocks.{i}.down" = "blocks.{i}.mlp.down_proj"
"""


class TorchBlock(nn.Module):
    """Attention, a gated layer, and a stack of square experts."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.gate = nn.Linear(WIDTH, HIDDEN)
        self.up = nn.Linear(WIDTH, HIDDEN)
        self.down = nn.Linear(HIDDEN, WIDTH)
        self.experts = nn.Parameter(torch.zeros(EXPERTS, WIDTH, WIDTH))

    def forward(self, x: Any) -> Any:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        scores = torch.softmax(q @ k.transpose(1, 2) * WIDTH**-0.5, dim=-1)
        x = x + self.proj(scores @ v)
        y = self.norm2(x)
        y = self.down(torch.nn.functional.gelu(self.gate(y)) * self.up(y)) + y
        return x + torch.einsum("bnc,edc->bnd", y, self.experts) / EXPERTS


class TorchSmall(nn.Module):
    """The source; its classifier shares the embedding's matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.blocks = nn.ModuleList([TorchBlock(), TorchBlock()])
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Any) -> Any:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class PaddleBlock(paddle.nn.Layer):  # type: ignore[misc]
    """The same in Paddle."""

    def __init__(self, approximate: bool) -> None:
        super().__init__()
        self.norm1 = paddle.nn.LayerNorm(WIDTH)
        self.qkv = paddle.nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = paddle.nn.Linear(WIDTH, WIDTH)
        self.norm2 = paddle.nn.LayerNorm(WIDTH)
        self.gate = paddle.nn.Linear(WIDTH, HIDDEN)
        self.up = paddle.nn.Linear(WIDTH, HIDDEN)
        self.down = paddle.nn.Linear(HIDDEN, WIDTH)
        self.experts = self.create_parameter([EXPERTS, WIDTH, WIDTH])
        self.approximate = approximate

    def forward(self, x: Any) -> Any:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, axis=-1)
        scores = paddle.nn.functional.softmax(q @ k.transpose([0, 2, 1]) * WIDTH**-0.5, axis=-1)
        x = x + self.proj(scores @ v)
        y = self.norm2(x)
        gate = paddle.nn.functional.gelu(self.gate(y), approximate=self.approximate)
        y = self.down(gate * self.up(y)) + y
        return x + paddle.einsum("bnc,edc->bnd", y, self.experts) / EXPERTS


class PaddleSmall(paddle.nn.Layer):  # type: ignore[misc]
    """The port; nothing ties its classifier."""

    def __init__(self, approximate: bool = False) -> None:
        super().__init__()
        self.embed = paddle.nn.Embedding(WORDS, WIDTH)
        self.blocks = paddle.nn.LayerList([PaddleBlock(approximate), PaddleBlock(approximate)])
        self.norm = paddle.nn.LayerNorm(WIDTH)
        self.head = paddle.nn.Linear(WIDTH, WORDS, bias_attr=False)

    def forward(self, ids: Any) -> Any:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def source() -> TorchSmall:
    """Return the source; no weight is fresh, so that every fault shows."""
    torch.manual_seed(0)
    model = TorchSmall().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if name.endswith(("norm1.weight", "norm2.weight")) else 0.0, 0.3)
    return model


def ported(state: State) -> State:
    """Return the weights as a right port has them: linear layers are (in, out) in Paddle."""
    linear = ("qkv", "proj", "gate", "up", "down", "head")
    return {
        name: array.T.copy()
        if name.endswith(".weight") and name.split(".")[-2] in linear
        else array
        for name, array in state.items()
    }


def load(model: Any, state: State) -> tuple[list[str], list[str]]:
    """Fill a Paddle model as `set_state_dict` does; return its report (missing, unexpected)."""
    tensors = {name: paddle.to_tensor(np.ascontiguousarray(a)) for name, a in state.items()}
    missing, unexpected = model.set_state_dict(tensors)
    return list(missing), list(unexpected)


class Exhibit:
    """What an exhibit works with, and what it returns: the port and the origin's own check."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = source()
        self.state: State = {
            n: t.detach().numpy().copy() for n, t in self.source.state_dict().items()
        }
        self.good = ported(self.state)

    def port(self, state: State, *, approximate: bool = False) -> tuple[Any, bool]:
        """Return a filled model, and whether its loading report is clean and its outputs finite."""
        paddle.seed(1)
        model = PaddleSmall(approximate)
        report = load(model, state)
        finite = bool(np.isfinite(model(paddle.to_tensor(IDS)).numpy()).all())
        return model, report == ([], []) and finite


def views(e: Exhibit) -> tuple[Any, bool]:
    """A writer stores the bytes of a view's base under the shape of the view."""
    weight = e.state["blocks.1.gate.weight"]
    view = weight.T
    path = e.folder / "views.bin"
    path.write_bytes(view.base.tobytes() if view.base is not None else weight.tobytes())
    stored = np.frombuffer(path.read_bytes(), np.float32).reshape(view.shape)
    model, clean = e.port({**e.good, "blocks.1.gate.weight": stored})
    return model, clean and stored.shape == view.shape


def experts(e: Exhibit) -> tuple[Any, bool]:
    """A converter transposes each expert unless the shape is already the wanted one."""
    wanted = e.state["blocks.0.experts"].shape
    stored = e.state["blocks.0.experts"].swapaxes(1, 2)  # the older layout
    read = stored if stored.shape == wanted else stored.swapaxes(1, 2)
    return e.port({**e.good, "blocks.0.experts": read})


def saved_names(e: Exhibit) -> tuple[Any, bool]:
    """Saving undoes a renaming that was never done: a prefix is doubled."""
    path = e.folder / "names.pth"
    tensors = {
        name.replace("blocks.", "blocks.blocks."): torch.from_numpy(array)
        for name, array in e.state.items()
    }
    torch.save(tensors, path)
    return path, len(torch.load(path, weights_only=True)) == len(e.state)


def loading_report(e: Exhibit) -> tuple[Any, bool]:
    """What was loaded is initialised once more; the report was made before."""
    model, clean = e.port(e.good)
    again = paddle.nn.initializer.Normal(0.0, 0.3)
    again(model.blocks[1].up.weight)
    return model, clean


def one_way_names(e: Exhibit) -> tuple[Any, bool]:
    """A library renames while it reads and not when it saves; the next one skips what it misses."""
    path = e.folder / "renamed.pth"
    names = {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
    tensors = {}
    for name, array in e.state.items():
        parts = [names.get(part, part) for part in name.split(".")]
        tensors[".".join(parts)] = torch.from_numpy(array)
    torch.save(tensors, path)
    model = TorchSmall()
    model.load_state_dict(torch.load(path, weights_only=True), strict=False)
    return path, bool(torch.isfinite(model(torch.from_numpy(IDS))).all())


def fused_slices(e: Exhibit) -> tuple[Any, bool]:
    """Gate and up are joined, then cut for two devices; each device takes its half for both."""
    gate, up = (e.good[f"blocks.0.{name}.weight"] for name in ("gate", "up"))
    ranks = np.split(np.concatenate([gate, up], axis=1), 2, axis=1)
    halves = [np.split(rank, 2, axis=1) for rank in ranks]
    merged = [np.concatenate([half[part] for half in halves], axis=1) for part in (0, 1)]
    state = {**e.good, "blocks.0.gate.weight": merged[0], "blocks.0.up.weight": merged[1]}
    return e.port(state)


def parallel_writers(e: Exhibit) -> tuple[Any, bool]:
    """Two writers share one buffer: the first one's tensor is gone when it is written."""
    buffer = np.empty_like(e.good["blocks.0.down.weight"])
    written = {}
    for name in ("blocks.0.down.weight", "blocks.1.down.weight"):
        buffer[...] = e.good[name]
        written[name] = buffer  # not a copy
    return e.port({**e.good, **written})


def square_linears(e: Exhibit) -> tuple[Any, bool]:
    """A converter transposes a matrix only where the shapes tell it to."""
    wanted = PaddleSmall().state_dict()
    state = {
        name: array if list(array.shape) == wanted[name].shape else array.T
        for name, array in e.state.items()
    }
    return e.port(state)


def not_strict(e: Exhibit) -> tuple[Any, bool]:
    """The names in the file have no prefix, those of the model have one; nothing is loaded."""
    paddle.seed(1)
    model = PaddleSmall()
    inside = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for name in set(inside) & set(e.good):
        inside[name].set_value(e.good[name])
    return model, bool(np.isfinite(model(paddle.to_tensor(IDS)).numpy()).all())


def exporter(e: Exhibit) -> tuple[Any, bool]:
    """An exporter has another function for an operator; the weights are all right."""
    return e.port(e.good, approximate=True)


def interleaved(e: Exhibit) -> tuple[Any, bool]:
    """The rows of q, k and v alternate in one library and follow each other in the other."""
    rows = e.state["blocks.1.qkv.weight"].reshape(3, WIDTH, WIDTH)
    mixed = rows.transpose(1, 0, 2).reshape(3 * WIDTH, WIDTH)
    return e.port({**e.good, "blocks.1.qkv.weight": mixed.T.copy()})


def untied(e: Exhibit) -> tuple[Any, bool]:
    """The file has a shared matrix once, and the model that reads it does not share."""
    paddle.seed(1)
    model = PaddleSmall()
    shared = {name: array for name, array in e.good.items() if name != "head.weight"}
    missing, unexpected = load(model, shared)
    ignored = ["head.weight"]  # what such loaders expect to be missing
    return model, missing == ignored and not unexpected


EXHIBITS: dict[str, Callable[[Exhibit], tuple[Any, bool]]] = {
    "transposed views": views,
    "square experts": experts,
    "names corrupted on save": saved_names,
    "a clean loading report": loading_report,
    "renames that are not reversed": one_way_names,
    "joined, then sliced": fused_slices,
    "parallel writers": parallel_writers,
    "square linears": square_linears,
    "a load that is not strict": not_strict,
    "an exporter": exporter,
    "interleaved q, k and v": interleaved,
    "a tied weight": untied,
}


def judged(exhibit: Exhibit, port: Any) -> dict[str, Any]:
    """Return what porter says of a port: a live model, or a file that is to be converted."""
    table = exhibit.folder / "small.toml"
    if isinstance(port, Path):
        from porter.commands.convert import convert

        try:
            convert(str(table), port, exhibit.folder / "out.pdparams", from_="torch", to="paddle")
        except MappingError as error:
            return {"status": "refused", "findings": [error.message]}
        return {"status": "passed", "findings": []}
    try:
        verdict = assert_equivalent(exhibit.source, port, table, {"ids": IDS})
    except NotEquivalent as error:
        verdict = error.verdict
    return {"status": verdict.status, "findings": [str(found) for found in verdict.findings]}


def main(folder: Path) -> dict[str, Any]:
    """Return what the origin's own check and porter say of each exhibit, and of the good port."""
    (folder / "small.toml").write_text(TABLE)
    exhibit = Exhibit(folder)
    results = {"a good port": {"origin": True, **judged(exhibit, exhibit.port(exhibit.good)[0])}}
    for name, make in EXHIBITS.items():
        port, content = make(exhibit)
        results[name] = {"origin": content, **judged(exhibit, port)}
    return results


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1])), indent=1))
