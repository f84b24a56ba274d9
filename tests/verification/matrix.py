"""Print the matrix of injected faults, and what good ports of every family take of their limits.

    python -m tests.verification.matrix > docs/reports/faults.md

The faults are those of `test_faults.py`, which tries fewer on Swin; here all are tried on all five
families. The good ports are of 20 seeds of weights and noise, from PyTorch to Paddle.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from porter import codecs
from porter.commands.verify import verify
from porter.frameworks.process import Pool
from porter.planning.plan import plan
from porter.planning.recognise import shapes_of
from porter.tensors.state_dict import StateDict
from porter.verification.sensitivity.prove import smallest
from porter.verification.verdict import Verdict
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded
from tests.verification.diagnose.test_faults import FAMILIES, HERE, WEIGHTS, Port

SEEDS = range(20)
GOOD = (
    "cait-xxs24-224", "ceit-tiny-224", "ceit-rishikksh20", "deit-tiny-distilled-224",
    "vit-tiny-layernorm-224", "swin-tiny-relu-w7-224", "pvtv2-b0", "shunted-t",
    "swin-tiny-w7-224", "vit-tiny-p16-224", "vit-labml-cifar10",
)  # fmt: skip
LABELS = {
    "square": "untransposed square weight", "q_and_k": "q ↔ k (k ↔ v where they are one tensor)",
    "interleaved": "q, k, v interleaved by head", "norms": "norm1 ↔ norm2",
    "blocks": "two blocks swapped", "bias": "lost bias", "statistics": "BN statistics at default",
    "heads": "heads permuted", "eps": "eps 1e-5 for 1e-6, or the reverse", "tanh": "tanh GELU",
    "token": "class token last", "heads of the code": "wrong head count",
}  # fmt: skip


HEAD = """# Injected faults, and good ports

Made by `python -m tests.verification.matrix`: seeded weights, PyTorch against Paddle on a CPU, one
picture of noise at the smallest size of each variant. Weights are faulty in a checkpoint, code in
a recorded trace. Shunted and Swin have no class token, CaiT, ViT and Swin no batch norm, and
Swin's table of biases fixes its number of heads.
"""


@dataclass(frozen=True)
class Cell:
    """What became of one fault in one family."""

    family: str
    fault: str
    error: float
    limit: float
    failed: bool
    named: bool
    reported: str


def cell(family: str, fault: str, expected: str, verdict: Verdict) -> Cell:
    """Judge a verdict on a fault; `expected` is a pattern of what the diagnosis must say."""
    exact = verdict.worst("float64")
    assert exact is not None
    lines = [f"{finding.place} {finding.what}" for finding in verdict.findings]
    hit = next((line for line in lines if re.search(expected, line)), "")
    shown = hit or (lines[0] if lines else "nothing")
    return Cell(family, fault, exact.right.error, exact.limit, verdict.failed, bool(hit), shown)


def line(found: Cell) -> str:
    """Return a cell as a line of the table."""
    return (
        f"| {found.family} | {LABELS[found.fault]} | {found.error:.1e}"
        f" | {found.error / found.limit:.0e} | {'fails' if found.failed else 'PASSES'}"
        f" | {'yes' if found.named else 'NO'} | {found.reported.replace('|', '¦')} |"
    )


def of_weights(name: str, port: Port, pool: Pool) -> Iterator[Cell]:
    """Yield every fault of the weights in one family."""
    for fault, inject in WEIGHTS.items():
        if fault == "statistics" and not port.family.batchnorm:
            continue
        state = {n: array.copy() for n, array in port.arrays.items()}
        place, what = inject(state, port.family).split(" ", 1)
        verdict = port.verify(port.plan.apply(StateDict.of(state)), pool)
        # A fault in several tensors is one finding, the tensors' names folded.
        pattern = re.escape(what) if fault in ("norms", "blocks") else (
            f"{re.escape(place)} .*{re.escape(what)}"
        )  # fmt: skip
        yield cell(name, fault, pattern, verdict)


def of_code(name: str, port: Port, pool: Pool) -> Iterator[Cell]:
    """Yield every fault of the code in one family, from traces."""
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.safetensors"
        codecs.write(port.plan.apply(StateDict.of(port.arrays)), str(weights), "safetensors",
                     read_back=False)  # fmt: skip
        subprocess.run(
            [sys.executable, HERE / "tampered.py", "paddle", port.family.variant,
             str(port.family.size), weights, folder, *port.family.code],
            check=True, capture_output=True,
        )  # fmt: skip
        for fault, expected in port.family.code.items():
            verdict = port.verify(Path(folder) / f"{fault}.safetensors", pool)
            label = "heads of the code" if fault == "heads" else fault
            yield cell(name, label, expected, verdict)


def good(name: str, pool: Pool) -> tuple[int, float, float]:
    """Return false alarms and the largest share of the float64 and the float32 limit."""
    variant = find(name)
    size, alarms, shares = smallest(variant), 0, {"float64": 0.0, "float32": 0.0}
    for seed in SEEDS:
        left = seeded(variant, seed=seed, num_classes=10, image_size=size)
        right = plan(variant, shapes_of(left), "torch", "paddle", image_size=size).apply(left)
        verdict = verify(
            variant, left, right, left_dialect="torch", right_dialect="paddle", image_size=size,
            seeds=[seed], batch_sizes=(1,), pool=pool,
        )  # fmt: skip
        alarms += not verdict.passed
        for check in verdict.checks:
            share = check.right.error / check.limit
            shares[check.precision] = float(np.fmax(shares[check.precision], share))
    return alarms, shares["float64"], shares["float32"]


def main() -> None:
    """Print both tables; exit with 1 where something is not as it must be."""
    cells: list[Cell] = []
    print(HEAD)
    print("| family | fault | error (float64) | times the limit | verdict | named | diagnosis |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with Pool() as pool:
        for name, family in FAMILIES.items():
            port = Port(family)
            for found in (*of_weights(name, port, pool), *of_code(name, port, pool)):
                cells.append(found)
                print(line(found), flush=True)
        failed, named = sum(c.failed for c in cells), sum(c.named for c in cells)
        print(f"\n{failed} of {len(cells)} fail the verdict, the diagnosis names {named}.\n")
        print(f"Good ports, {len(SEEDS)} seeds of weights and noise each:\n")
        print("| variant | false alarms | share of the float64 limit | of the float32 limit |")
        print("| --- | --- | --- | --- |")
        alarms = 0
        for name in GOOD:
            wrong, exact, single = good(name, pool)
            alarms += wrong
            print(f"| {name} | {wrong} | {exact:.1%} | {single:.0%} |", flush=True)
    sys.exit(bool(alarms or failed < len(cells) or named < 0.9 * len(cells)))


if __name__ == "__main__":
    main()
