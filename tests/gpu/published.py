"""Models that other packages define: what PaddleX's classes computed on a CPU.

    python -m tests.gpu.published FOLDER [VARIANT…]      where both frameworks are: writes traces

Weights and pictures are drawn from seeds. Traces are too large to be kept: `make gpu-wheels` writes
them next to the wheels. They have the outputs of one picture and a digest of it; `restore` draws
the picture again.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

import porter
from porter.commands.live.one import Asked
from porter.commands.published.classes import pictures, record_class
from porter.frameworks import exchange
from porter.frameworks.live.cases import GIVEN
from porter.tensors.blocks import Array
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import families, find
from tests.gpu.recorded import digest

VARIANTS = (
    "pp-ocrv6-tiny-rec", "pp-ocrv6-small-rec", "pp-ocrv6-tiny-det", "pp-ocrv6-medium-det",
    "pp-ocrv5-server-rec", "pp-ocrv5-server-det", "slanet", "slanext-wired", "uvdoc",
    "rt-detr-l-wired-table-cell-det", "pp-doclayoutv2", "pp-doclayoutv3",
    "pp-formulanet-plus-l-shallow",
)  # fmt: skip
"""One of each family without reference model, two where a family has very different sizes."""


def weights(name: str, folder: Path) -> Path:
    """Write the weights of transformers' class; return the file."""
    path = folder / f"{name}.safetensors"
    if not path.exists():
        porter.init(name, path)
    return path


def faults(state: StateDict) -> dict[str, StateDict]:
    """Return the weights with a matrix in the middle of the model rolled by a third."""
    matrices = [n for n, t in state.items() if n.endswith(".weight") and len(t.shape) > 1
                and t.shape[0] > 2]  # fmt: skip
    name = matrices[len(matrices) // 2]
    rows = state[name].read()
    rolled = LazyTensor.of(np.roll(rows, len(rows) // 3, 0))
    return {f"{name} rolled by a third": StateDict({**state, name: rolled})}


def restore(trace: Path, folder: Path) -> Path:
    """Write a whole trace, with its picture, to a folder; return the file."""
    arrays, about = exchange.load(trace)
    given = _given(about["name"])
    if digest(given) != about.pop("inputs"):
        raise ValueError("this NumPy draws other noise than the one that recorded the traces")
    path = folder / trace.name
    exchange.save(path, {**given, **arrays}, about)
    return path


def record_paddle(name: str, folder: Path) -> Path:
    """Run PaddleX's class on the CPU and keep what it computes of one picture."""
    with tempfile.TemporaryDirectory() as temporary:
        checkpoint, whole = Path(temporary, "a.pdparams"), Path(temporary, "whole.safetensors")
        porter.init(name, checkpoint, to="paddle")
        record_class(find(name), Asked(checkpoint, None, None), whole, device="cpu")
        arrays, about = exchange.load(whole)
    kept = {key: a for key, a in arrays.items()
            if key.startswith("output/") and key.split("/")[2] == GIVEN}  # fmt: skip
    about["cases"] = {GIVEN: about["cases"][GIVEN]}
    about["outputs"] = {p: {GIVEN: found[GIVEN]} for p, found in about["outputs"].items()}
    path = folder / f"{name}.trace.safetensors"
    exchange.save(path, kept, about | {"inputs": digest(_given(name))})
    return path


def lacking() -> set[str]:
    """Return the families without reference model of which no variant is recorded."""
    wanted = {name for name, variants in families().items() if not variants[0].module}
    return wanted - {find(name).family for name in VARIANTS}


def _given(name: str) -> dict[str, Array]:
    return {f"input/{GIVEN}/{key}": array for key, array in pictures(find(name)).items()}


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for chosen in sys.argv[2:] or VARIANTS:
        made = record_paddle(chosen, target)
        print(f"{made}: {made.stat().st_size} bytes", flush=True)
