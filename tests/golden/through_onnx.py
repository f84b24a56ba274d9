"""`python -m tests.golden.through_onnx [CASE]...`: golden cases to ONNX, through onnxslim, back.

Each case is exported in operator sets 13 and 17, run in ONNX Runtime and compared with its float64
logits (where it has none, with a float64 run of the reference model); then rewritten by onnxslim,
run again, and read back: every weight must be the one that was exported, byte for byte.
Smallest first. It prints a Markdown table and exits with 1 if a case fails.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnxslim import slim

import porter
from porter import codecs
from porter.errors import PorterError
from porter.frameworks.fill import fill
from porter.frameworks.models import build
from porter.onnx.recover.read import recover
from porter.planning.fit import fit
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import Architecture, find
from tests.golden.cases import ALL, Case

OPSETS = (13, 17)
LIMIT = 1e-5
LIMITS = {"vit-small-r26-s32-224.timm": 3e-5, "pvtv2-b0.hf": 3e-5, "pvt-tiny.hf": 3e-5}
"""Normalised error of float32 outputs, as in `tests.test_golden`; transformers' PVT and PVTv2 have
another epsilon in their norms, which the graph of the architecture does not have."""


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden.through_onnx")
    parser.add_argument("cases", nargs="*", help="default: those with logits")
    parser.add_argument("--all", action="store_true", help="cases without logits as well")
    parser.add_argument("--largest", type=float, default=1e9, help="bytes of weights")
    chosen = parser.parse_args()
    cases = [c for c in ALL if c.name in chosen.cases or (not chosen.cases and _asked(c, chosen))]
    columns = [*(f"opset {opset}" for opset in OPSETS), "after onnxslim", "back"]
    print(f"| case | {' | '.join(columns)} |\n{'|---' * (len(columns) + 1)}|")
    is_sound = True
    for case in sorted(cases, key=_nbytes):
        begin = time.perf_counter()
        try:
            cells = _row(list(_cells(case)))
        except PorterError as error:
            cells = [f"refused: {error.message} !", *[""] * (len(columns) - 1)]
        print(f"| {case.name} | {' | '.join(cells)} |", flush=True)
        print(f"{case.name}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
        is_sound &= not any("!" in cell for cell in cells)
    sys.exit(not is_sound)


def _row(cells: list[str]) -> list[str]:
    """Return the errors by operator set, the larger one after onnxslim, and the ways back."""
    errors, slimmed, back = (cells[part::3] for part in range(3))
    return [*errors, max(slimmed), "; ".join(dict.fromkeys(back))]


def _asked(case: Case, chosen: argparse.Namespace) -> bool:
    return (chosen.all or case.has_logits) and _nbytes(case) <= chosen.largest


def _nbytes(case: Case) -> int:
    return sum(4 * int(np.prod(shape)) for _, _, shape in case.manifest["tensors"])


def _cells(case: Case) -> Iterator[str]:
    """Yield errors before and after onnxslim and the way back; `!` is a failure."""
    variant, image = find(case.variant), case.image()
    size = variant.size_of(*image.shape[2:])
    with tempfile.TemporaryDirectory(prefix="porter-golden-") as name:
        folder = Path(name)
        source = folder / "a.safetensors"
        codecs.write(StateDict.of(case.weights()), str(source), "safetensors")
        expected = case.logits if case.has_logits else _reference(case)
        for opset in OPSETS:
            path, slimmed = folder / f"{opset}.onnx", folder / f"{opset}.slim.onnx"
            done = porter.convert(
                case.variant, source, path, from_=case.side, to="onnx", verify=False,
                image_size=size, onnx={"opset": opset},
            )  # fmt: skip
            yield _judged(case, _run(path, image), expected)
            onnx.save(slim(str(path)), slimmed)
            yield _judged(case, _run(slimmed, image), expected)
            fitted = done.plan.architecture
            yield _way_back(fitted, slimmed, recover(fitted, path).state)


def _reference(case: Case) -> np.ndarray:
    """Return what the reference model computes with a case's weights, in float64."""
    import torch

    fitted = fit(find(case.variant), StateDict.of(case.weights()), case.side, "torch")
    model = build(
        fitted.architecture, "torch", num_classes=fitted.plan.num_classes,
        image_size=fitted.plan.image_size, features=fitted.plan.features,
    )  # fmt: skip
    fill(model, fitted.plan.apply(fitted.state), "torch")
    with torch.no_grad():
        return model.eval().double()(torch.from_numpy(case.image()).double()).numpy()


def _judged(case: Case, outputs: np.ndarray, expected: np.ndarray) -> str:
    given = case.kept(outputs) if case.has_logits else outputs
    if given.shape != expected.shape:
        return f"shape {list(given.shape)}, not {list(expected.shape)} !"
    error = np.abs(given.astype(np.float64) - expected).max() / np.sqrt((expected**2).mean())
    return f"{error:.1e}{'' if error < LIMITS.get(case.name, LIMIT) else ' !'}"


def _run(path: Path, image: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: image})[-1]  # after probabilities


def _way_back(variant: Architecture, path: Path, exported: StateDict) -> str:
    folded = ""
    try:
        found = recover(variant, path).state
    except PorterError as error:
        if "--fold-batchnorm" not in error.message:
            return f"refused: {error.message[:200]} !"
        folded = "folded batch norms"
        try:
            found = recover(variant, path, fold_batchnorm=True).state
        except PorterError as other:
            return f"{folded}, refused: {other.message[:200]} !"
    if list(found) != list(exported):
        return f"{folded} names differ !"
    differing = [name for name, tensor in exported.items() if not _same(found[name], tensor)]
    if folded:
        kept = len(exported) - len(differing)
        return f"{folded}, {kept} of {len(exported)} exact"
    return f"{len(differing)} weights differ !" if differing else "exact"


def _same(one: LazyTensor, other: LazyTensor) -> bool:
    a, b = np.array(one.read()), np.array(other.read())
    return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


if __name__ == "__main__":
    main()
