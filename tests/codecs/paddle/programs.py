"""Inference models that Paddle writes, made in a process of their own: a flag decides the form."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from porter.tensors.blocks import Array

SCRIPT = """
import sys
import numpy as np, paddle
{build}
random = np.random.default_rng(0)
for value in model.state_dict().values() if {fill} else ():
    kind = str(value.dtype).rpartition(".")[2]
    if "int" not in kind:
        value.set_value(paddle.to_tensor(random.random(value.shape, np.float32)).astype(kind))
model.eval()
shape = {shape}
spec = [paddle.static.InputSpec(shape, "float32", "x")]
paddle.jit.save(paddle.jit.to_static(model, input_spec=spec, full_graph=True), sys.argv[1])
paddle.save(model.state_dict(), sys.argv[1] + ".pdparams")
named = {{v.name: v.numpy() for v in model.state_dict().values()}}
np.savez(sys.argv[1] + ".npz", **named)
{after}
"""
NET = """
from paddle import nn
model = nn.Sequential(nn.Conv2D(3, 4, 3), nn.BatchNorm2D(4), nn.Flatten(), nn.Linear(144, 2))
"""
SUFFIX = {True: ".json", False: ".pdmodel"}
"""Of the program, by whether it is PIR."""


def save(
    folder: Path,
    *,
    pir: bool,
    build: str = NET,
    shape: str = "[1, 3, 8, 8]",
    after: str = "",
    fill: bool = True,
) -> Path:
    """Write `inference.*` into a folder; returns the path of the program.

    `build` is source that makes `model`, `after` what is run with it in the end; `fill` gives
    the model random weights.
    """
    prefix = folder / "inference"
    env = {**os.environ, "FLAGS_enable_pir_api": str(int(pir)), "GLOG_minloglevel": "3"}
    script = folder / "make.py"  # Paddle reads the source of what it traces.
    source = SCRIPT.format(build=build, shape=shape, after=after, fill=fill)
    script.write_text(source, encoding="utf-8")
    subprocess.run([sys.executable, script, prefix], check=True, env=env, cwd=folder)
    return prefix.with_suffix(SUFFIX[pir])


def arrays(program: Path) -> dict[str, Array]:
    """Return {name in the program: array}, as Paddle has them."""
    with np.load(program.with_suffix(".npz")) as found:
        return dict(found)
