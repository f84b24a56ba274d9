"""`python -m benchmarks.onnx_matrix [VARIANT]...`: exports in old and new opsets and runtimes.

Each variant is exported in each form and operator set, run in each runtime, compared with a
float64 run of the reference model and read back. A runtime other than the installed one is a folder
that pip made, in which its Python packages come first:

    pip install --no-deps --target old onnxruntime==1.15.1 numpy==1.26.4
    python -m benchmarks.onnx_matrix --runtime "ONNX Runtime 1.15=old"

It prints Markdown tables, the second of file sizes after onnxruntime's `quantize_dynamic`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.onnx import EXPORT
from porter.commands.init import init
from porter.errors import PorterError
from porter.frameworks.models import build
from porter.onnx.export.write import Options, export
from porter.onnx.recover.read import recover
from porter.tensors import casts
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import Architecture, find
from porter.zoo.seeded import seeded

VARIANTS = ["deit-tiny-224", "swin-tiny-w7-224", "pvtv2-b0"]
OPSETS = (11, 13, 15, 17, 18, 20, 23)
FORMS = ("fp32", "fp16", "int8", "int8, calibrated")
RUN = """
import sys
import numpy as np
image, *paths = sys.argv[2:]
image = np.load(image)
def onnxruntime(path):
    import onnxruntime as ort
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image})[0]
def openvino(path):
    import openvino
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    return openvino.compile_model(path, "CPU", hint)([image])[0]
for path in paths:
    try:
        np.save(path + ".npy", locals()[sys.argv[1]](path))
    except Exception as error:
        print(f"{path}: {' '.join(str(error).split())[:200]}", file=sys.stderr)
"""


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.onnx_matrix")
    parser.add_argument("variants", nargs="*", default=VARIANTS)
    parser.add_argument("--runtime", action="append", default=[], metavar="NAME=FOLDER",
                        help="another; one whose name has openvino is OpenVINO")  # fmt: skip
    parser.add_argument("--form", action="append", choices=FORMS, help="only this form")
    chosen = parser.parse_args()
    runtimes = {"ONNX Runtime, installed": ""}
    runtimes |= dict(text.split("=", 1) for text in chosen.runtime)
    print(f"| variant | form | {' | '.join(runtimes)} | back |")
    print("|---" * (len(runtimes) + 3) + "|")
    for name in chosen.variants:
        for form in chosen.form or FORMS:
            with tempfile.TemporaryDirectory(prefix="porter-bench-") as folder:
                cells = _row(find(name), form, runtimes, Path(folder))
                print(f"| {name} | {form} | {' | '.join(cells)} |", flush=True)
    print("\n| variant | file, MB | quantised, MB | TorchScript's, quantised |\n|---|---|---|---|")
    for name in chosen.variants:
        with tempfile.TemporaryDirectory(prefix="porter-bench-") as folder:
            print(f"| {name} | {' | '.join(_sizes(name, Path(folder)))} |", flush=True)


def _row(
    architecture: Architecture, form: str, runtimes: Mapping[str, str], folder: Path
) -> Iterator[str]:
    """Yield what each runtime computes, and in which operator sets the weights come back."""
    size = architecture.image_size
    state = casts.cast(seeded(architecture), "fp16" if form == "fp16" else "fp32")[0]
    rng = np.random.default_rng(0)
    image = rng.standard_normal((2, 3, size, size), np.float32)
    batches = {str(i): rng.standard_normal((1, 3, size, size), np.float32) for i in range(8)}
    np.save(folder / "image.npy", image)
    expected = reference(architecture, image)
    returned = []
    for opset in OPSETS:
        if form == FORMS[3] and opset < 13:
            continue
        options = Options(
            opset=opset, io_dtype="fp32" if form == "fp16" else None, int8=form.startswith("int8"),
            calibration=batches if form == FORMS[3] else {},
        )  # fmt: skip
        path = folder / f"{opset}.onnx"
        export(architecture, state, path, num_classes=architecture.num_classes, image_size=size,
               options=options)  # fmt: skip
        if _comes_back(architecture, path, state):
            returned.append(opset)
    for name, packages in runtimes.items():
        yield _ran(name, packages, folder, expected, form)
    yield f"exact, {_span(returned)}" if returned else "no"


def reference(architecture: Architecture, image: np.ndarray) -> np.ndarray:
    """Return what the reference model computes with seeded weights, in float64."""
    import torch

    model = build(architecture, "torch").eval()
    weights = seeded(architecture).items()
    model.load_state_dict({n: torch.from_numpy(np.array(t.read())) for n, t in weights})
    with torch.no_grad():
        return model.double()(torch.from_numpy(image).double()).numpy()


def _comes_back(architecture: Architecture, path: Path, state: StateDict) -> bool:
    try:
        found = recover(architecture, path).state
    except PorterError:
        return False
    return list(found) == list(state) and all(
        np.array(found[n].read()).tobytes() == np.array(t.read()).tobytes()
        for n, t in state.items()
    )


def _ran(name: str, packages: str, folder: Path, reference: np.ndarray, form: str) -> str:
    """Return in which operator sets a runtime runs the files, and the largest error."""
    paths = sorted(folder.glob("*.onnx"), key=lambda path: int(path.stem))
    library = "openvino" if "openvino" in name.lower() else "onnxruntime"
    env = {**os.environ, "PYTHONPATH": packages} if packages else dict(os.environ)
    command = [sys.executable, "-c", RUN, library, str(folder / "image.npy"), *map(str, paths)]
    subprocess.run(command, env=env, cwd=folder, stderr=subprocess.DEVNULL, check=False)
    outputs = {}
    for path in paths:
        made = Path(f"{path}.npy")
        if made.exists():
            outputs[int(path.stem)] = np.load(made).astype(np.float64)
            made.unlink()
    if not outputs:
        return "none"
    if form.startswith("int8"):
        figure = f"cosine {min(_cosine(out, reference) for out in outputs.values()):.4f}"
    else:
        scale = np.sqrt((reference**2).mean())
        figure = f"{max(np.abs(out - reference).max() for out in outputs.values()) / scale:.1e}"
    return f"{_span(list(outputs))}: {figure}"


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    x, y = one.ravel(), other.ravel()
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


def _span(opsets: Sequence[int]) -> str:
    """Return operator sets as text, `11–20` where none of those tried is left out between."""
    first, last = OPSETS.index(opsets[0]), OPSETS.index(opsets[-1])
    if list(OPSETS[first : last + 1]) == list(opsets):
        return f"{opsets[0]}–{opsets[-1]}" if len(opsets) > 1 else str(opsets[0])
    return ", ".join(map(str, opsets))


def _sizes(name: str, folder: Path) -> Iterator[str]:
    """Yield the size of an export, of it quantised, and of TorchScript's quantised."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    architecture = find(name)
    source, ours, theirs, small = (folder / n for n in ("m.pth", "a.onnx", "b.onnx", "c.onnx"))
    init(name, source)
    export(architecture, seeded(architecture), ours, num_classes=architecture.num_classes,
           image_size=architecture.image_size)  # fmt: skip
    yield f"{ours.stat().st_size / 1e6:.1f}"
    command = [sys.executable, "-W", "ignore", "-c", EXPORT, name, str(source), str(theirs), "0"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for path in (ours, theirs):
        quantize_dynamic(path, small, weight_type=QuantType.QUInt8)
        yield f"{small.stat().st_size / 1e6:.1f}"


if __name__ == "__main__":
    main()
