"""What the tests of torch's files share: how files are made, and when tensors are the same."""

from __future__ import annotations

import argparse
import collections
import io
import pathlib
import pickle
import struct
import tarfile
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


class _Named:
    """Stands for something outside of the pickle."""

    def __init__(self, key: int) -> None:
        self.key = key


class _TarPickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return str(value.key) if type(value) is _Named else None


def old_tar(
    views: list[tuple[int, int, int, int]] | None = None,
    *,
    size: str = "",
    extended: dict[str, str] | None = None,
    prefix: str = "",
    name: str = "",
    gap: bytes = b"",
    **extra: bytes,
) -> bytes:
    """Return the tar that torch 0.1 wrote for two tensors, one transposed, and their dictionary.

    The layout is the one that `torch.load` still reads. `extended` goes into an extended header,
    `prefix` and `name` into that of the first member, `gap` behind its last byte.
    """

    def dump(*values: Any) -> bytes:
        return b"".join(pickle.dumps(value, 2) for value in values)

    numbers = np.arange(6, dtype=np.float32)
    storages = dump(1, (11, "cpu", torch.FloatStorage)) + struct.pack("<q", 6) + numbers.tobytes()
    storages += dump(views if views is not None else [])
    root = views[0][0] if views else 11
    length = views[0][3] if views else 6
    tensors = dump(2, (21, root, torch.FloatTensor))
    tensors += struct.pack("<ii2q2qq", 2, 0, 2, length // 2, length // 2, 1, 0)
    tensors += dump((22, root, torch.FloatTensor))
    tensors += struct.pack("<ii2q2qq", 2, 0, length // 2, 2, 1, length // 2, 0)
    stream = io.BytesIO()
    value = collections.OrderedDict([("w", _Named(21)), ("t", _Named(22))])
    _TarPickler(stream, 2).dump({"state_dict": value, "epoch": 3})
    members = {"storages": storages, "tensors": tensors, "pickle": stream.getvalue(), **extra}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:", format=tarfile.PAX_FORMAT) as archive:
        for member, data in members.items():
            item = tarfile.TarInfo(member)
            item.size = len(data)
            item.pax_headers = dict(extended or {})
            if size:
                item.pax_headers["size"] = size.format(len(data))
            item.mtime = 1.5  # type: ignore[assignment]  # makes an extended header, as torch's had
            archive.addfile(item, io.BytesIO(data))
    return _altered(bytearray(buffer.getvalue()), len(storages), prefix, name, gap)


def _altered(tar: bytearray, nbytes: int, prefix: str, name: str, gap: bytes) -> bytes:
    """Write into the header of the first member, and behind its bytes."""
    at = tar.index(b"storages\0" + bytes(90))
    header = tar[at : at + 512]
    header[345 : 345 + len(prefix)] = prefix.encode()
    header[: len(name)] = name.encode()
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    tar[at : at + 512] = header
    end = at + 512 + nbytes
    tar[end : end + len(gap)] = gap
    return bytes(tar)


def dump(*values: Any) -> bytes:
    """Return pickles one behind the other."""
    return b"".join(pickle.dumps(value, 2) for value in values)
