"""`python -m benchmarks.onnx_tools [VARIANT]...`: exports that other tools rewrite.

Each file is rewritten by each tool, run in the installed ONNX Runtime, compared with a float64 run
of the reference model and read back. onnxslim and onnxsim take part where they are installed
(`pip install --no-deps onnxslim onnxsim`). It prints a Markdown table.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from benchmarks.onnx_matrix import VARIANTS, reference
from porter.errors import PorterError
from porter.onnx.export.write import Options, export
from porter.onnx.recover.read import recover
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import Architecture, find
from porter.zoo.seeded import seeded


def main() -> None:
    """Parse, rewrite, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.onnx_tools")
    parser.add_argument("variants", nargs="*", default=[*VARIANTS, "shunted-t"])
    parser.add_argument("--opset", type=int, action="append", help="default: 13 and 17")
    chosen = parser.parse_args()
    tools = [name for name in TOOLS if _is_there(name)]
    print(f"| variant | opset | {' | '.join(tools)} |\n{'|---' * (len(tools) + 2)}|")
    for name in chosen.variants:
        for opset in chosen.opset or (13, 17):
            with tempfile.TemporaryDirectory(prefix="porter-bench-") as folder:
                cells = [_cell(find(name), opset, tool, Path(folder)) for tool in tools]
                print(f"| {name} | {opset} | {' | '.join(cells)} |", flush=True)


def _is_there(name: str) -> bool:
    package = name.partition(" ")[0]
    return package == "ONNX" or importlib.util.find_spec(package) is not None


def _cell(architecture: Architecture, opset: int, tool: str, folder: Path) -> str:
    """Return the largest error of what a tool writes, and whether the weights come back."""
    state, size = seeded(architecture), architecture.image_size
    source, path = folder / f"{opset}.onnx", folder / f"{opset}.rewritten.onnx"
    if not source.exists():
        export(architecture, state, source, num_classes=architecture.num_classes, image_size=size,
               options=Options(opset=opset))  # fmt: skip
    TOOLS[tool](source, path)
    image = np.random.default_rng(0).standard_normal((2, 3, size, size), np.float32)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected = reference(architecture, image)
    found = session.run(None, {session.get_inputs()[0].name: image})[0]
    error = np.abs(found - expected).max() / np.sqrt((expected**2).mean())
    return f"{error:.1e}, {_way_back(architecture, path, state)}"


def _way_back(architecture: Architecture, path: Path, state: StateDict) -> str:
    try:
        found = recover(architecture, path).state
    except PorterError as error:
        known = {"batch norms are folded": "folded batch norms", "has fused": "fused operations"}
        reasons = [reason for words, reason in known.items() if words in error.message]
        return f"refused: {reasons[0] if reasons else 'not understood'}"
    pairs = ((np.array(found[name].read()), np.array(state[name].read())) for name in state)
    differing = [one for one, other in pairs if one.tobytes() != other.tobytes()]
    return "exact" if not differing else f"{len(differing)} weights differ"


def _slim(source: Path, path: Path) -> None:
    from onnxslim import slim

    onnx.save(slim(str(source)), path)


def _sim(source: Path, path: Path) -> None:
    from onnxsim import simplify

    onnx.save(simplify(onnx.load(source))[0], path)


def _optimised(level: ort.GraphOptimizationLevel) -> Callable[[Path, Path], None]:
    def rewrite(source: Path, path: Path) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = level
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    return rewrite


TOOLS: dict[str, Callable[[Path, Path], None]] = {
    "onnxslim": _slim,
    "onnxsim": _sim,
    "ONNX Runtime, basic": _optimised(ort.GraphOptimizationLevel.ORT_ENABLE_BASIC),
    "ONNX Runtime, extended": _optimised(ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED),
}

if __name__ == "__main__":
    main()
