"""Compare torch on a GPU with what Paddle computed on a CPU, and write the reports.

    python docs/reports/gpu.py --record   where both frameworks are: writes the traces
    python docs/reports/gpu.py            where the GPU is: torch alone is needed

The second writes `gpu-PRECISION.md`, `.html`, `.json` and `.xml` beside this file for float32,
TF32, float16 and bfloat16, of a good port and of one with an untransposed weight in float32.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from porter.planning.plan import plan
from porter.planning.recognise import shapes_of
from porter.report import SUFFIXES, write_reports
from porter.report.text import plain
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.verification import trace as traces
from porter.verification.forward import record, verify
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded

HERE = Path(__file__).parent
TRACE = HERE.parents[1] / "tests" / "gpu" / "shunted-t.paddle.safetensors"
VARIANT, SIZE, CLASSES = find("shunted-t"), 64, 10
PRECISIONS = ("float32", "tf32", "float16", "bfloat16")
FAULT = "block4.0.attn.proj.weight"


def record_paddle() -> None:
    """Record the Paddle side on the CPU: inputs and outputs, without layers, to be small."""
    weights = seeded(VARIANT, num_classes=CLASSES, image_size=SIZE)
    ported = plan(VARIANT, shapes_of(weights), "torch", "paddle", image_size=SIZE).apply(weights)
    with tempfile.TemporaryDirectory() as folder:
        made = record(
            VARIANT, ported, Path(folder) / "whole.safetensors", dialect="paddle",
            image_size=SIZE, device="cpu", batch_sizes=(2,),
        )  # fmt: skip
    traces.save(replace(made, layers={}), TRACE)
    print(f"{TRACE}: {TRACE.stat().st_size} bytes")


def compare() -> int:
    """Verify at every precision, write the reports; return how many did not come out as due."""
    weights = StateDict(seeded(VARIANT, num_classes=CLASSES, image_size=SIZE))
    wrong = StateDict({**weights, FAULT: LazyTensor.of(weights[FAULT].read().T.copy())})
    surprises = 0
    for name, state in [*((p, weights) for p in PRECISIONS), ("fault", wrong)]:
        verdict = verify(
            VARIANT, TRACE, state, right_dialect="torch", image_size=SIZE, device="cuda",
            precision=name if name in PRECISIONS else "float32",
        )  # fmt: skip
        surprises += verdict.passed is (name == "fault")
        write_reports(verdict, [HERE / f"gpu-{name}{suffix}" for suffix in SUFFIXES])
        print(plain(verdict), end="\n\n")
    return surprises


if __name__ == "__main__":
    if "--record" in sys.argv:
        record_paddle()
    else:
        sys.exit(compare())
