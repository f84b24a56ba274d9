"""Write the example reports: a good port and a faulty one, on the CPU.

    python docs/reports/examples.py [VARIANT [SIZE [FOLDER]]]

The faulty port has a square weight untransposed, its k and q swapped in one block, and a bias lost.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

import numpy as np

from porter import codecs
from porter.commands.verify import verify
from porter.planning.plan import plan
from porter.planning.recognise import shapes_of
from porter.report import SUFFIXES, write_reports
from porter.report.text import plain
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded

HERE = Path(__file__).parent


def faulty(source: StateDict, ported: StateDict) -> StateDict:
    """Return the port with three faults, in the middle of the model."""
    found = dict(ported)
    squares = [n for n, t in source.items() if n.endswith("attn.proj.weight")]
    biases = [n for n in source if n.endswith("fc2.bias")]
    packed = [n for n in source if n.endswith(("attn.qkv.weight", "attn.kv.weight"))]
    found[squares[len(squares) // 2]] = source[squares[len(squares) // 2]]
    bias = biases[len(biases) // 3]
    found[bias] = LazyTensor.of(np.zeros(source[bias].shape, np.float32))
    name = packed[2 * len(packed) // 3]
    parts = 3 if name.endswith("qkv.weight") else 2
    first, second, *rest = np.split(np.array(ported[name].read()), parts, axis=1)
    found[name] = LazyTensor.of(np.concatenate([second, first, *rest], axis=1))
    return StateDict(found)


def main(name: str = "vit-tiny-p16-224", size: str = "", folder: str = str(HERE)) -> None:
    """Write both reports in every form, print them as the terminal shows them."""
    variant, pixels = find(name), int(size) if size else None
    source = StateDict.of(seeded(variant, num_classes=10, image_size=pixels).arrays())
    made = plan(variant, shapes_of(source), "torch", "paddle", image_size=pixels)
    ported = made.apply(source)
    target = Path(folder).absolute()
    with tempfile.TemporaryDirectory() as where, contextlib.chdir(where):
        left, right = "official.pth", "ported.pdparams"
        codecs.write(source, left, "torch")
        for label, state in (("good", ported), ("faulty", faulty(source, ported))):
            codecs.write(state, right, "paddle", force=True)
            verdict = verify(
                variant, left, right, image_size=pixels, per_layer=True, grad=label == "good",
                sensitivity=True,
            )  # fmt: skip
            write_reports(verdict, [target / f"{label}{suffix}" for suffix in SUFFIXES])
            print(plain(verdict), end="\n\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
