"""A variant of every family, and what Paddle computed for it on a CPU.

    python -m tests.gpu.recorded [VARIANT…]      where both frameworks are: writes the traces

Weights and inputs are drawn from seeds, so neither is kept: a trace of `traces/` has outputs only,
and a digest of the inputs. `restore` draws the inputs again and writes the whole trace.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import xxhash

from porter.commands.verify import record
from porter.frameworks import exchange
from porter.planning.plan import plan
from porter.planning.recognise import shapes_of
from porter.tensors.blocks import Array
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.verification.inputs import noise
from porter.verification.sensitivity.prove import smallest
from porter.zoo.architectures import Architecture, find
from porter.zoo.seeded import seeded

FOLDER = Path(__file__).parent / "traces"
VARIANTS = (
    "cait-xxs24-224", "ceit-tiny-224", "ceit-rishikksh20", "deit-tiny-distilled-224",
    "vit-tiny-relu-224", "pvtv2-b0", "pvtv2-b2-li", "shunted-t", "swin-tiny-w7-224",
    "vit-tiny-p16-224", "vit-labml-cifar10", "vit-tiny-linformer-224", "dwnet-tiny", "dy-resnet18",
    "pvt-tiny", "deit3-small-224", "pp-lcnet-x0_25-textline-ori", "hgnet-v2-l",
    "pp-ocrv5-mobile-rec",
)  # fmt: skip
PACKED = (
    "qkv.weight", "kv.weight", "query.linear.weight", "to_k.weight", ".conv2.weight",
    "pointwise_convolution.convolution.weight", "aggregation.1.convolution.weight",
)  # fmt: skip
CLASSES, SEEDS, BATCH = 10, (0, 1, 2, 3, 4), 2


def weights(variant: Architecture) -> StateDict:
    """Return the weights of both sides, in the naming of the PyTorch reference."""
    return StateDict(seeded(variant, num_classes=CLASSES, image_size=smallest(variant)))


def faults(state: StateDict) -> dict[str, StateDict]:
    """Return the weights with a large and with a small fault, in the middle of the model."""
    packed = _middle(n for n in state if n.endswith(PACKED))
    bias = _middle(n for n in state if n.endswith(".bias"))
    rows = state[packed].read()
    rolled = np.roll(rows, len(rows) // 3, 0)
    return {
        f"{packed} rolled by a third": _with(state, packed, rolled),
        f"{bias} lost": _with(state, bias, np.zeros_like(state[bias].read())),
    }


def _middle(names: Iterable[str]) -> str:
    found = list(names)
    return found[len(found) // 2]


def _with(state: StateDict, name: str, array: Array) -> StateDict:
    return StateDict({**state, name: LazyTensor.of(array)})


def restore(name: str, folder: Path) -> Path:
    """Write the whole trace of a variant to a folder, with its inputs; return the file."""
    arrays, about = exchange.load(_trace(name))
    given = _inputs(find(name))
    if digest(given) != about["inputs"]:
        raise ValueError("this NumPy draws other noise than the one that recorded the traces")
    path = folder / f"{name}.paddle.safetensors"
    exchange.save(path, {**given, **arrays}, about)
    return path


def record_paddle(name: str) -> None:
    """Run Paddle on the CPU and keep what it computes, without layers and inputs."""
    variant, state, size = find(name), weights(find(name)), smallest(find(name))
    ported = plan(variant, shapes_of(state), "torch", "paddle", image_size=size).apply(state)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.safetensors"
        record(variant, ported, whole, dialect="paddle", image_size=size, device="cpu",
               seeds=SEEDS, batch_sizes=(BATCH,))  # fmt: skip
        arrays, about = exchange.load(whole)
    kept = {key: array for key, array in arrays.items() if key.startswith("output/")}
    about |= {"inputs": digest(_inputs(variant)), "layers": {}}
    exchange.save(_trace(name), kept, about)
    print(f"{name}: {_trace(name).stat().st_size} bytes", flush=True)


def _trace(name: str) -> Path:
    return FOLDER / f"{name}.paddle.safetensors"


def _inputs(variant: Architecture) -> dict[str, Array]:
    drawn = noise(SEEDS, (BATCH,), variant.sides(smallest(variant)))
    return {f"input/{case}": array for case, array in drawn.items()}


def digest(arrays: Mapping[str, Array]) -> str:
    hashed = xxhash.xxh3_128()
    for name, array in arrays.items():
        hashed.update(name.encode() + array.tobytes())
    return hashed.hexdigest()


if __name__ == "__main__":
    for chosen in sys.argv[1:] or VARIANTS:
        record_paddle(chosen)
