"""torch's files: what torch saves is read, what porter writes torch loads, bit for bit."""

from __future__ import annotations

import collections
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from porter import codecs
from porter.codecs.torch.writing import pieces
from porter.errors import InputError, UsageError
from porter.tensors.dtypes import DTYPES
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from tests.codecs.torch.torch_files import (
    BASE,
    COMPLEX,
    LEGACY,
    TORCH_DTYPES,
    bits,
    checkpoint,
    raw,
    same,
    saved,
)


@pytest.mark.parametrize("options", [{}, LEGACY], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", TORCH_DTYPES)
def test_every_dtype_comes_and_goes(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    """Every dtype that both sides have is read and written with every bit in place."""
    source = {"w": bits(TORCH_DTYPES[name], 3, 5), "s": bits(TORCH_DTYPES[name])}
    state = codecs.read(saved(source, tmp_path / "a.pth", **options))
    assert all(same(state[key], source[key]) for key in source)
    codecs.write(state, str(tmp_path / "b.pth"), "torch")
    for mapped in (False, True):
        back = torch.load(tmp_path / "b.pth", weights_only=True, mmap=mapped)
        assert all(back[key].dtype == source[key].dtype for key in source)
        assert all(raw(back[key]) == raw(source[key]) for key in source)


VIEWS: dict[str, torch.Tensor] = {
    "plain": BASE,
    "transposed": BASE.t(),
    "row": BASE[2],
    "column": BASE[:, 3],
    "inner": BASE[1:3, 2:5],
    "every other": BASE[::2, ::3],
    "expanded": BASE[:1].expand(7, 6),
    "broadcast": torch.tensor(3.0).expand(2, 3),
    "permuted": torch.arange(120.0).reshape(2, 3, 4, 5).permute(3, 1, 0, 2),
    "channels last": torch.arange(120.0).reshape(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "scalar": torch.tensor(2.5),
    "scalar of many": BASE[1, 1],
    "empty": torch.zeros(0, 3),
    "empty inside": torch.zeros(2, 0, 3),
    "empty slice": BASE[2:2],
    "ones": BASE[1:2, 1:2],
    "conjugated": COMPLEX.conj(),
    "conjugated, transposed": COMPLEX.conj().t(),
    "negated": torch._neg_view(BASE),
    "negated imaginary": COMPLEX.conj().imag,
    "negated whole numbers": torch._neg_view(torch.arange(5)),
    "negated bfloat16": torch._neg_view(torch.tensor([0.0, -1.0, float("inf")]).bfloat16()),
    "real part": COMPLEX.real,
    "parameter": torch.nn.Parameter(BASE.clone()),
    "frozen parameter": torch.nn.Parameter(BASE.clone(), requires_grad=False),
    "buffer": torch.nn.Buffer(BASE.clone()),
    "of several dimensions": torch.arange(64.0).reshape(2, 2, 2, 2, 2, 2).transpose(1, 4),
}


@pytest.mark.parametrize("options", [{}, LEGACY], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", VIEWS)
def test_every_view_is_read_as_it_looks(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    """Strides, offsets, lazy bits and subclasses of parameters give the values torch shows."""
    tensor = VIEWS[kind]
    state = codecs.read(saved({"w": tensor}, tmp_path / "a.pth", **options))
    assert same(state["w"], tensor)
    codecs.write(state, str(tmp_path / "b.pth"), "torch")
    assert raw(torch.load(tmp_path / "b.pth")["w"]) == raw(tensor)


def test_contiguous_views_stay_in_the_file(tmp_path: Path) -> None:
    """Whatever lies in one run has its extent, so that a writer can copy it unread."""
    views = {name: t for name, t in VIEWS.items() if name not in ("real part", "negated imaginary")}
    path = saved(views, tmp_path / "a.pth")
    data = Path(path).read_bytes()
    state = codecs.read(path)
    inside = {name for name, tensor in state.items() if tensor.extent is not None}
    assert {"plain", "row", "scalar", "empty", "parameter", "ones"} <= inside
    assert not {"transposed", "column", "expanded", "conjugated", "negated"} & inside
    for name in inside:
        extent = state[name].extent
        assert extent is not None
        assert data[extent.offset : extent.offset + extent.nbytes] == raw(VIEWS[name])


def test_ties_are_kept(tmp_path: Path) -> None:
    """Names of one memory share a storage again; a slice of it is a tensor of its own."""
    shared = torch.arange(6.0)
    source = {"a": shared, "b": shared, "c": shared[2:4], "d": shared.clone()}
    state = codecs.read(saved(source, tmp_path / "a.pth"))
    assert state["a"].tie == state["b"].tie
    assert len({state[name].tie for name in "acd"}) == 3
    codecs.write(state, str(tmp_path / "b.pth"), "torch")
    back = torch.load(tmp_path / "b.pth")
    assert back["a"].data_ptr() == back["b"].data_ptr() != back["d"].data_ptr()
    assert all(torch.equal(back[name], source[name]) for name in source)


def test_written_pickle_is_that_of_torch(tmp_path: Path) -> None:
    """The pickle that describes the tensors is the one torch writes, byte for byte."""
    source = collections.OrderedDict()
    for index in range(1203):
        dtype = list(TORCH_DTYPES.values())[index % len(TORCH_DTYPES)]
        source[f"layer.{index}.é"] = bits(dtype, *((2, 3, 1, 4, 0)[: index % 6]))
    state = codecs.read(saved(source, tmp_path / "a.pth"))
    codecs.write(state, str(tmp_path / "b.pth"), "torch")
    with zipfile.ZipFile(tmp_path / "a.pth") as a, zipfile.ZipFile(tmp_path / "b.pth") as b:
        assert a.read("a/data.pkl") == b.read("archive/data.pkl")
        written = {name.partition("/")[2]: b.read(name) for name in b.namelist()}
        theirs = {name.partition("/")[2]: a.read(name) for name in a.namelist()}
    theirs.pop(".data/serialization_id")
    assert written == theirs


def test_output_is_deterministic(tmp_path: Path) -> None:
    """The same tensors give the same bytes."""
    state = codecs.read(saved({"w": BASE, "v": BASE[1]}, tmp_path / "a.pth"))
    for name in ("b", "c"):
        codecs.write(state, str(tmp_path / f"{name}.pth"), "torch")
    assert (tmp_path / "b.pth").read_bytes() == (tmp_path / "c.pth").read_bytes()


def test_storages_are_aligned_for_mapping(tmp_path: Path) -> None:
    """Every storage begins at a multiple of 64 bytes."""
    state = StateDict.of({f"n{'x' * i}": np.zeros(i, np.int8) for i in range(1, 40)})
    codecs.write(state, str(tmp_path / "b.pth"), "torch")
    mapped = torch.load(tmp_path / "b.pth", mmap=True)
    assert all(tensor.data_ptr() % 64 == 0 for tensor in mapped.values())


@pytest.mark.parametrize("options", [{}, LEGACY, {"pickle_protocol": 4}], ids=["2", "legacy", "4"])
def test_training_checkpoint_is_unwrapped(options: dict[str, Any], tmp_path: Path) -> None:
    """The model's tensors come out, and everything left behind is named."""
    value = checkpoint()
    state = codecs.read(saved(value, tmp_path / "a.pth", **options))
    assert list(state) == list(value["model"])
    assert all(same(state[name], tensor) for name, tensor in value["model"].items())
    assert state.origin is not None
    assert state.origin.wrapper == "model"
    left = {line.partition(":")[0] for line in state.origin.skipped}
    assert left == set(value) - {"model"}
    assert "epoch: the value 7" in state.origin.skipped
    assert "args: a value of argparse.Namespace" in state.origin.skipped
    assert "rng: a tensor outside of the state dict" in state.origin.skipped


def sparse() -> torch.Tensor:
    """Return a sparse tensor."""
    return torch.eye(3).to_sparse()


UNPORTABLE: dict[str, tuple[Callable[[], Any], str]] = {
    "sparse": (sparse, "it is sparse"),
    "compressed": (lambda: torch.eye(3).to_sparse_csr(), "it is sparse"),
    "meta": (lambda: torch.empty(3, device="meta"), "on the meta device"),
    "quantized": (
        lambda: torch.quantize_per_tensor(torch.ones(3), 0.5, 3, torch.qint8),
        "it is quantized",
    ),
    "quantized by channel": (
        lambda: torch.quantize_per_channel(
            torch.ones(2, 3), torch.ones(2), torch.zeros(2), 0, torch.quint8
        ),
        "it is quantized",
    ),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "it is nested"),
    "half complex": (
        lambda: torch.ones(2, dtype=torch.complex32),
        r"it is of dtype torch\.complex32",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", UNPORTABLE)
def test_unportable_tensor_is_refused_by_name_and_kind(kind: str, tmp_path: Path) -> None:
    """A tensor that no other format can hold is refused, saying which and why."""
    make, message = UNPORTABLE[kind]
    path = saved({"fine": BASE, "odd": make()}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=message) as caught:
        codecs.read(path)
    assert "tensor odd cannot be ported" in str(caught.value)


def test_whole_module_is_refused_with_advice(tmp_path: Path) -> None:
    """A pickled module is refused, and the message says what to save instead."""
    path = saved(torch.nn.Linear(2, 2), tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"torch\.nn\.modules.*save its state_dict"):
        codecs.read(path)


@pytest.mark.parametrize("value", [BASE, [BASE], {"a": [BASE]}, {}, {"a": 1}, None])
def test_what_is_no_state_dict_is_refused(value: Any, tmp_path: Path) -> None:
    """A bare tensor, a list, or nothing at all has no names to port."""
    with pytest.raises(InputError, match=r"has no|bare tensor"):
        codecs.read(saved(value, tmp_path / "a.pth"))


def test_dtype_that_torch_lacks_is_refused_by_name() -> None:
    """Writing names the tensor and the dtype that cannot be held."""
    lacking = [dtype for dtype in DTYPES.values() if dtype.torch is None]
    for dtype in lacking:
        state = StateDict({"w": LazyTensor(dtype, (1,), lambda: np.zeros(1))})
        with pytest.raises(UsageError, match=f"w: its dtype is {dtype.name}"):
            list(pieces(state, {}))
