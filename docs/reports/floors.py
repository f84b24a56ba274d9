"""Measure how far TF32, float16 and bfloat16 stay below the limits, and what faults do there.

    python docs/reports/floors.py > docs/reports/floors.md

Everything runs in PyTorch on the CPU. float16 and bfloat16 are the CPU's own kernels; TF32 is
emulated: what enters a matrix product or a convolution is rounded to ten bits of mantissa, or cut
off there as some kernels do, and sums are float32.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from porter.frameworks.runner import Watch
from porter.frameworks.torch import TorchRunner
from porter.tensors.blocks import Array
from porter.verification import tolerance
from porter.verification.compare import compare
from porter.verification.inputs import noise
from porter.verification.sensitivity.prove import smallest
from porter.zoo.architectures import Architecture, find
from porter.zoo.seeded import seeded

VARIANTS = (
    "shunted-t", "cait-xxs24-224", "ceit-tiny-224", "ceit-rishikksh20", "deit-tiny-distilled-224",
    "vit-tiny-p16-224", "vit-labml-cifar10", "pvtv2-b0", "pvtv2-b2-li", "swin-tiny-w7-224",
    "vit-tiny-relu-224",
)  # fmt: skip
SEEDS = range(5)
PRECISIONS = ("tf32, rounded", "tf32, cut off", "float16", "bfloat16")
_PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "convolution")


HEAD = f"""# Coarse precisions, measured

Made by `python docs/reports/floors.py` in PyTorch {torch.__version__} on a CPU: each variant at
the smallest image size that gives every part of it work, {len(SEEDS)} seeds of weights and noise,
batch 2, 10 classes. float16 and bfloat16 are the CPU's own kernels. **TF32 is emulated**: what
enters a matrix product or a convolution is rounded to ten bits of mantissa, or cut off there, and
sums are float32. No GPU took part.

A good run must stay below its limit ([verification.md](../verification.md)); its largest error is
given in units of roundoff of the precision, and as a share of the limit. Then four faults are
tried on the first seed: one that stays below the limit is named, with how far it moves the logits
in float64. Such faults are within what the precision may round away: the float64 run, which
every verdict has but those of traces and graphs, is what fails then.

| variant | precision | largest error, units | share of the limit | faults that fail here |
| --- | --- | --- | --- | --- |"""


class Tf32(TorchDispatchMode):
    """Gives matrix products and convolutions operands of ten bits of mantissa."""

    def __init__(self, cut_off: bool) -> None:
        super().__init__()
        self._cut_off = cut_off
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in _PRODUCTS:
            first = 1 if name in ("addmm", "baddbmm") else 0  # the sum's other part stays
            self.count += 1
            args = tuple(
                self._ten_bits(a) if first <= index < first + 2 else a
                for index, a in enumerate(args)
            )
        return func(*args, **(kwargs or {}))

    def _ten_bits(self, value: torch.Tensor) -> torch.Tensor:
        bits = value.contiguous().numpy().view(np.int32)
        if not self._cut_off:
            bits = bits + 0xFFF + ((bits >> 13) & 1)
        return torch.from_numpy((bits & ~0x1FFF).view(np.float32).copy())


@dataclass
class Case:
    """One variant's reference model and its seeded weights."""

    variant: Architecture
    seed: int
    size: int
    weights: Mapping[str, Array] = field(init=False)
    inputs: Array = field(init=False)
    runner: TorchRunner = field(init=False)

    def __post_init__(self) -> None:
        made = seeded(self.variant, seed=self.seed, num_classes=10, image_size=self.size)
        self.weights = {name: np.array(t.read()) for name, t in made.items()}
        (self.inputs,) = noise([self.seed], [2], self.size).values()
        self.runner = TorchRunner()
        self.runner.place("cpu")
        self.runner.build(self.variant, 10, self.size, ())

    def logits(self, precision: str, changed: Mapping[str, Array] | None = None) -> Array:
        """Return the logits with some weights changed."""
        self.runner.cast("float32" if precision.startswith("tf32") else precision)
        for name, array in {**self.weights, **(changed or {})}.items():
            wide = array.astype(np.float64 if precision == "float64" else np.float32)
            self.runner.assign(
                name, np.array(wide if array.dtype.kind == "f" else array, order="C")
            )
        with _mode(precision):
            outputs = self.runner.forward(self.inputs, Watch()).outputs
        return next(iter(outputs.values()))


@contextlib.contextmanager
def _mode(precision: str) -> Iterator[None]:
    if not precision.startswith("tf32"):
        yield
        return
    with Tf32(precision.endswith("cut off")) as mode:
        yield
    assert mode.count, "no product was intercepted"


def faults(weights: Mapping[str, Array]) -> dict[str, dict[str, Array]]:
    """Return one fault of each kind that ports suffer, in the middle of the model."""
    names = list(weights)
    square = [n for n in names if weights[n].ndim == 2 and len(set(weights[n].shape)) == 1
              and len(weights[n]) > 16]  # fmt: skip
    norms = [n for n in names if n.endswith(".weight") and weights[n].ndim == 1]
    biases = [n for n in names if n.endswith(".bias")]
    packed = [n for n in names if n.endswith(("qkv.weight", "kv.weight", "query.linear.weight"))]
    found = {}
    if square:
        name = square[len(square) // 2]
        found["untransposed"] = {name: weights[name].T}
    if packed:
        name = packed[len(packed) // 2]
        found["q, k, v rolled"] = {name: np.roll(weights[name], len(weights[name]) // 3, 0)}
    name = biases[len(biases) // 2]
    found["bias lost"] = {name: np.zeros_like(weights[name])}
    name = norms[len(norms) // 2]
    found["norm at its default"] = {name: np.ones_like(weights[name])}
    return found


@dataclass
class Row:
    """What one variant showed at one precision."""

    ratio: float = 0.0
    """The largest share of the limit that a good run took."""
    units: float = 0.0
    """The largest error in units of roundoff."""
    caught: int = 0
    tried: int = 0
    missed: list[str] = field(default_factory=list)


def measure(variant: Architecture, seeds: range) -> dict[str, Row]:
    """Run good and faulty weights of every seed at every precision."""
    rows = {precision: Row() for precision in PRECISIONS}
    for seed in seeds:
        case = Case(variant, seed, smallest(variant))
        reference = case.logits("float64")
        own = compare(case.logits("float32"), reference).error
        for precision, row in rows.items():
            name = precision.partition(",")[0]
            limit = tolerance.limit(name, own)
            error = _error(case.logits(precision), reference)
            row.ratio = max(row.ratio, error / limit)
            row.units = max(row.units, error / tolerance.roundoff(name))
            if seed:
                continue
            for fault, changed in faults(case.weights).items():
                found = _error(case.logits(precision, changed), reference)
                row.tried += 1
                row.caught += found > limit
                if found <= limit:
                    moved = _error(case.logits("float64", changed), reference)
                    row.missed.append(f"{fault}, {moved:.0e}")
    return rows


def _error(found: Array, reference: Array) -> float:
    figures = compare(found, reference)
    return float("inf") if figures.problem else figures.error


def main(names: tuple[str, ...]) -> None:
    """Print the table; fail on a false alarm."""
    print(HEAD)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    alarms = []
    for name in names or VARIANTS:
        for precision, row in measure(find(name), SEEDS).items():
            faults_seen = f"{row.caught} of {row.tried}"
            faults_seen += f" (not: {'; '.join(row.missed)})" if row.missed else ""
            print(f"| {name} | {precision} | {row.units:.0f} | {row.ratio:.0%} | {faults_seen} |",
                  flush=True)  # fmt: skip
            alarms += [(name, precision)] if row.ratio > 1 else []
    if alarms:
        sys.exit(f"false alarms: {alarms}")


if __name__ == "__main__":
    main(tuple(sys.argv[1:]))
