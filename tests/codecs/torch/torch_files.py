"""What the tests of torch's files share: how files are made, and when tensors are the same."""

from __future__ import annotations

import argparse
import io
import pathlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from porter.tensors.dtypes import DTYPES
from porter.tensors.lazy import LazyTensor

TORCH_DTYPES = {name: getattr(torch, str(d.torch)) for name, d in DTYPES.items() if d.torch}


def raw(tensor: torch.Tensor) -> bytes:
    """Return a tensor's bytes in C order, lazy bits resolved."""
    tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return bytes(tensor.reshape(-1).view(torch.uint8).numpy()) if tensor.numel() else b""


def same(found: LazyTensor, expected: torch.Tensor) -> bool:
    """Whether dtype, shape and bytes are equal, read at once and in blocks."""
    data = b"".join(bytes(block) for block in found.blocks())
    assert found.dtype.torch == str(expected.dtype).removeprefix("torch.")
    assert found.shape == tuple(expected.shape)
    assert np.ascontiguousarray(found.read()).tobytes() == data
    return data == raw(expected)


def saved(value: Any, path: Path, **options: Any) -> str:
    """Save by torch; returns the path."""
    torch.save(value, path, **options)
    return str(path)


def bits(dtype: torch.dtype, *shape: int, seed: int = 0) -> torch.Tensor:
    """Return a tensor of random bits: NaNs with payloads, infinities and all."""
    width = torch.empty((), dtype=dtype).element_size()
    count = int(np.prod(shape, dtype=int))
    data = np.random.default_rng(seed).integers(0, 256, count * width, np.uint8)
    if dtype is torch.bool:
        data &= 1
    return (
        torch.from_numpy(data).view(dtype).reshape(shape)
        if count
        else torch.zeros(shape, dtype=dtype)
    )


LEGACY = {"_use_new_zipfile_serialization": False}


BASE = torch.arange(24, dtype=torch.float32).reshape(4, 6)


COMPLEX = torch.view_as_complex(torch.arange(12, dtype=torch.float32).reshape(2, 3, 2))


def checkpoint() -> dict[str, Any]:
    """Return what a training script saves."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": {"last_epoch": 3, "base_lrs": [0.1]},
        "epoch": 7,
        "args": argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("/x"), betas=(0.9, 0.99)),
        "best": np.float64(0.5),
        "rng": torch.get_rng_state(),
        "numpy_rng": np.random.get_state(),
        "history": [{"loss": 0.5}],
        "amp": None,
    }


def rewritten(data: bytes, change: Callable[[str, bytes], bytes | None]) -> bytes:
    """Return a zip with its members changed and its checksums right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for item in old.infolist():
            content = change(item.filename.partition("/")[2], old.read(item.filename))
            if content is not None:
                new.writestr(item.filename, content)
    return buffer.getvalue()
