"""Make the files of Paddle 2.6 and NumPy 1 that the suite reads: `python -m tests.old.make_files`.

They stand in `tests/old/paddle-2.6` with `expected.json`, the dtype, shape and sha256 of every
tensor as Paddle itself sees it. `make old` has made them; the suite reads them ever after.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle.framework import io, io_utils

FILES = Path(__file__).parent / "paddle-2.6"
SMALL = 64
"""Bytes of a slice; Paddle's own are of 1 GiB."""


def described(tensor: Any) -> dict[str, Any]:
    """Return dtype, shape and sha256 of a tensor of Paddle."""
    data = np.ascontiguousarray(tensor.numpy()).tobytes()
    dtype = str(tensor.dtype).removeprefix("paddle.")
    return {"dtype": dtype, "shape": list(tensor.shape), "sha256": hashlib.sha256(data).hexdigest()}


@contextmanager
def slices_small() -> Iterator[None]:
    """Have Paddle's own code cut parameters over `SMALL` bytes instead of 1 GiB."""
    source = inspect.getsource(io_utils._unpack_saved_dict)
    assert "2**30" in source
    scope = vars(io_utils).copy()
    exec(source.replace("2**30", str(SMALL)), scope)
    whole = io._unpack_saved_dict
    io._unpack_saved_dict = scope["_unpack_saved_dict"]
    try:
        yield
    finally:
        io._unpack_saved_dict = whole


def make(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Write each file; yield its name and its tensors."""
    with paddle.utils.unique_name.guard():
        yield from _made(folder)


def _made(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    paddle.seed(0)
    layer = paddle.nn.Sequential(paddle.nn.Linear(3, 4), paddle.nn.BatchNorm1D(4))
    optimizer = paddle.optimizer.AdamW(parameters=layer.parameters())
    layer(paddle.rand([2, 3])).sum().backward()
    optimizer.step()
    state = dict(layer.state_dict())
    state["half"] = paddle.rand([7, 3]).astype("bfloat16")
    state["fp16"] = paddle.rand([5]).astype("float16")
    state["steps"] = paddle.to_tensor([1, -1], "int64")
    state["flags"] = paddle.to_tensor([True, False])
    state["wave"] = paddle.to_tensor([1 + 2j, -0.0j], "complex64")
    for protocol in (2, 3, 4):
        name = f"state-protocol-{protocol}.pdparams"
        paddle.save(state, str(folder / name), protocol=protocol)
        yield name, state
        name = f"nested-protocol-{protocol}.pdparams"
        nested = {"model": state, "optimizer": optimizer.state_dict(), "epoch": 3, "best": 0.5}
        paddle.save(nested, str(folder / name), protocol=protocol)
        yield name, state
    moments = {k: v for k, v in optimizer.state_dict().items() if isinstance(v, paddle.Tensor)}
    paddle.save(optimizer.state_dict(), str(folder / "adamw.pdopt"))
    yield "adamw.pdopt", moments
    with (folder / "dense.pdparams").open("wb") as file:
        held = {"w": paddle.rand([2, 3])}
        io._pickle_save({k: v.value().get_tensor() for k, v in held.items()}, file, 4)
    yield "dense.pdparams", held
    big = {"w": paddle.rand([5, 7]), "half": paddle.rand([9, 5]).astype("bfloat16"), "b": held["w"]}
    for protocol in (2, 3):
        name = f"sliced-protocol-{protocol}.pdparams"
        with slices_small():
            paddle.save(big, str(folder / name), protocol=protocol)
        yield name, big


def main() -> None:
    """Write the files and what they hold."""
    FILES.mkdir(exist_ok=True)
    expected = {
        name: {n: described(tensor) for n, tensor in tensors.items()}
        for name, tensors in make(FILES)
    }
    rows = ",\n".join(
        f'"{name}": {{\n'
        + ",\n".join(f" {json.dumps(n)}: {json.dumps(row)}" for n, row in tensors.items())
        + "\n}"
        for name, tensors in expected.items()
    )
    (FILES / "expected.json").write_text(f"{{\n{rows}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
