"""`python -m benchmarks.onnx [VARIANT]...`: export by template, torch's exporters, paddle2onnx.

All write the same model from the same weights, each in a process of its own, imports
included; the files are then run beside each other in ONNX Runtime. Medians over the rounds.
paddle2onnx takes part where it is installed (`pip install --no-deps paddle2onnx`).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime as ort

from porter.commands.init import init
from porter.onnx.export.template import template
from porter.zoo.architectures import find

EXPORT = """
import sys, torch
from porter.zoo.architectures import find
from porter.frameworks.models import build
name, source, target, dynamo = sys.argv[1:]
architecture = find(name)
model = build(architecture, "torch").eval()
model.load_state_dict(torch.load(source))
size = architecture.image_size
shapes = {"dynamic_shapes": ({0: torch.export.Dim("batch")},), "external_data": False}
axes = {"dynamic_axes": {"image": {0: "batch"}}}
torch.onnx.export(model, (torch.zeros(2, 3, size, size),), target, dynamo=dynamo == "1",
                  input_names=["image"], output_names=["logits"], verbose=False,
                  **(shapes if dynamo == "1" else axes))
"""
PADDLE = """
import sys, paddle
from porter.zoo.architectures import find
from porter.frameworks.models import build
name, source, target = sys.argv[1:]
architecture = find(name)
model = build(architecture, "paddle")
model.eval()
model.set_state_dict(paddle.load(source))
size = architecture.image_size
spec = paddle.static.InputSpec([1, 3, size, size], "float32", "image")
paddle.onnx.export(model, target.removesuffix(".onnx"), input_spec=[spec], opset_version=17)
"""
"""Of a batch of one: with a free one paddle2onnx 2.1 writes files that no runtime loads."""


def main() -> None:
    """Parse, measure, print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.onnx", description=__doc__)
    parser.add_argument("variants", nargs="*", default=["deit-base-224", "swin-tiny-w7-224"])
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    print("| variant | exporter | seconds | times porter's | latency, ms |\n|---|---|---|---|---|")
    for name in chosen.variants:
        with tempfile.TemporaryDirectory(prefix="porter-bench-") as folder:
            _measure(name, Path(folder), chosen.rounds)


def _measure(name: str, folder: Path, rounds: int) -> None:
    template(find(name))  # there once, as on every export but the first
    source = folder / "m.pth"
    init(name, source)
    ours = [sys.executable, "-c", "from porter.cli import main; main()", "convert", name,
            str(source), "--from", "torch", "--to", "onnx", "--no-verify", "--force", "--quiet",
            "-o"]  # fmt: skip
    theirs = [sys.executable, "-W", "ignore", "-c", EXPORT, name, str(source)]
    exporters: dict[str, Callable[[str], list[str]]] = {
        "porter, by template": lambda path: [*ours, path],
        "torch.onnx.export(dynamo=True)": lambda path: [*theirs, path, "1"],
        "torch.onnx.export(dynamo=False)": lambda path: [*theirs, path, "0"],
    }
    if importlib.util.find_spec("paddle2onnx") is not None:
        weights = os.fspath(folder / "m.pdparams")
        init(name, weights, to="paddle")
        paddle = [sys.executable, "-W", "ignore", "-c", PADDLE, name, weights]
        exporters["paddle2onnx"] = lambda path: [*paddle, path]
    seconds: dict[str, float] = {}
    paths: dict[str, str] = {}
    for index, (who, command) in enumerate(exporters.items()):
        paths[who] = os.fspath(folder / f"{index}.onnx")
        seconds[who] = median(_seconds(command(paths[who])) for _ in range(rounds))
    latencies = _latencies(name, paths)
    first = next(iter(seconds.values()))
    for who, taken in seconds.items():
        latency = f"{latencies[who] * 1e3:.1f}"
        print(f"| {name} | {who} | {taken:.1f} | {taken / first:.1f} | {latency} |", flush=True)


def _seconds(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begin


def _latencies(name: str, paths: dict[str, str]) -> dict[str, float]:
    """Return the least CPU time of 25 runs of one picture, on one thread, in seconds.

    The files take turns, so that whatever else the machine does falls on all of them.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = {
        who: ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for who, path in paths.items()
    }
    size = find(name).image_size
    image = np.random.default_rng(0).standard_normal((1, 3, size, size), np.float32)
    times: dict[str, list[float]] = {who: [] for who in paths}
    for _ in range(25):
        for who, session in sessions.items():
            begin = time.process_time()
            session.run(None, {session.get_inputs()[0].name: image})
            times[who].append(time.process_time() - begin)
    return {who: min(found) for who, found in times.items()}


if __name__ == "__main__":
    main()
