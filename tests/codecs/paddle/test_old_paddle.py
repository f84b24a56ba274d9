"""Files that Paddle 2.6 saved with NumPy 1 (`tests/old`), read ever after, bit for bit."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import paddle
import pytest

from porter import codecs
from porter.commands.repack import repack
from tests import old

FILES = Path(next(iter(old.__path__))) / "paddle-2.6"
EXPECTED = json.loads((FILES / "expected.json").read_text(encoding="utf-8"))


def described(dtype: str, shape: Any, data: bytes) -> dict[str, Any]:
    """Return a tensor in the form of `expected.json`."""
    return {"dtype": dtype, "shape": list(shape), "sha256": hashlib.sha256(data).hexdigest()}


@pytest.mark.parametrize("name", EXPECTED)
def test_file_of_paddle_2_6_is_read(name: str) -> None:
    """Names, dtypes, shapes and bits are those that Paddle 2.6 saw."""
    state = codecs.read(str(FILES / name))
    found = {n: described(t.dtype.name, t.shape, t.read().tobytes()) for n, t in state.items()}
    assert found == EXPECTED[name]


@pytest.mark.parametrize("name", EXPECTED)
def test_file_of_paddle_2_6_reaches_this_one(name: str, tmp_path: Path) -> None:
    """Written again, it is loaded by the Paddle that is installed, bit for bit."""
    origin = codecs.read(str(FILES / name)).origin
    assert origin is not None
    repack(FILES / name, tmp_path / "a.pdparams", key=origin.wrapper or None)
    loaded = paddle.load(str(tmp_path / "a.pdparams"))
    for tensor, row in EXPECTED[name].items():
        value = loaded[tensor]
        dtype = str(value.dtype).removeprefix("paddle.")
        assert described(dtype, value.shape, value.numpy().tobytes()) == row


def test_files_hold_every_shape_that_paddle_writes() -> None:
    """Each protocol, names as text, (name, array), eval and slices are among them."""
    data = {name: (FILES / name).read_bytes() for name in EXPECTED}
    assert {content[1] for content in data.values()} == {2, 3, 4}
    assert b"eval" in data["dense.pdparams"]
    for name in ("sliced-protocol-2.pdparams", "sliced-protocol-3.pdparams"):
        assert b"UnpackBigParamInfor@@" in data[name]
        assert b"half@@.1" in data[name]
    assert all(b"numpy.core.multiarray" in content for content in data.values())
