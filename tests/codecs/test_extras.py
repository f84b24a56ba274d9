"""What training scripts save beside the weights: left behind by name, never a reason to refuse."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import enum
import fractions
import functools
import io
import pathlib
import pickle
import random
import sys
import types
import uuid
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from porter import codecs
from porter.commands.repack import repack
from porter.errors import InputError
from tests.codecs.torch.torch_files import LEGACY, same, saved


def optimizer() -> torch.optim.Optimizer:
    """Return an optimizer after one step."""
    model = torch.nn.Linear(3, 2)
    found = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    found.step()
    return found


def scheduled(make: Callable[[torch.optim.Optimizer], Any]) -> Callable[[], Any]:
    """Return the maker of the state of a scheduler."""
    return lambda: make(optimizer()).state_dict()


EXTRAS: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "Ellipsis": lambda: ...,
    "NotImplemented": lambda: NotImplemented,
    "number": lambda: 3,
    "large number": lambda: -(2**100),
    "NaN": lambda: float("nan"),
    "complex": lambda: 1j,
    "bytes": lambda: b"abc",
    "not bytes": lambda: b"",
    "bytearray": lambda: bytearray(b"abc"),
    "set": lambda: {1, 2},
    "frozenset": lambda: frozenset([1]),
    "slice": lambda: slice(1, 2),
    "range": lambda: range(3),
    "deque": lambda: collections.deque([1, 2, 3]),
    "deque of one": lambda: collections.deque([1], maxlen=4),
    "Counter": lambda: collections.Counter("aab"),
    "OrderedDict": lambda: collections.OrderedDict(a=1),
    "defaultdict": lambda: collections.defaultdict(list, a=[1]),
    "keys of numbers": lambda: {1: torch.ones(2), (1, 2): 3},
    "list of tensors": lambda: [torch.ones(2)],
    "Namespace": lambda: argparse.Namespace(lr=0.1, out=pathlib.Path("x"), on=torch.device("cpu")),
    "SimpleNamespace": lambda: types.SimpleNamespace(a=1),
    "path": lambda: pathlib.PurePosixPath("a"),
    "datetime": lambda: datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC),
    "time": lambda: (datetime.date(2024, 1, 2), datetime.time(1), datetime.timedelta(1)),
    "Decimal": lambda: decimal.Decimal("1.5"),
    "Fraction": lambda: fractions.Fraction(1, 3),
    "UUID": lambda: uuid.UUID(int=5),
    "type": lambda: [int, type(None)],
    "random state": random.getstate,
    "Random": lambda: random.Random(1),
    "numpy float32": lambda: np.float32(1.5),
    "numpy bool": lambda: np.bool_(True),
    "numpy text": lambda: np.str_("a"),
    "numpy type": lambda: [getattr(np, n) for n in ("float32", "float64", "int64", "uint8")],
    "numpy dtype": lambda: np.dtype("float32"),
    "numpy array": lambda: np.arange(3),
    "numpy objects": lambda: np.array(["a", None], dtype=object),
    "numpy dates": lambda: np.datetime64("2020-01-01"),
    "numpy random state": np.random.get_state,
    "RandomState": lambda: np.random.RandomState(0),
    **{
        name: lambda name=name: np.random.Generator(getattr(np.random, name)(0))
        for name in ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")
    },
    "torch random state": torch.get_rng_state,
    "torch version": lambda: torch.__version__,
    "torch size": lambda: torch.Size([1, 2]),
    "torch dtype": lambda: torch.bfloat16,
    "torch layout": lambda: torch.strided,
    "parameter": lambda: torch.nn.Parameter(torch.ones(2)),
    "sparse": lambda: torch.eye(2).to_sparse(),
    "meta": lambda: torch.empty(2, device="meta"),
    "AdamW": lambda: optimizer().state_dict(),
    "GradScaler": lambda: torch.amp.GradScaler("cpu").state_dict(),
    "CosineAnnealingLR": scheduled(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10)),
    "MultiStepLR": scheduled(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [3, 5])),
    "OneCycleLR": scheduled(lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, 5)),
    "LambdaLR": scheduled(lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda epoch: 1.0)),
    "ReduceLROnPlateau": scheduled(lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o)),
}
WEIGHTS = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{}, LEGACY, {"pickle_protocol": 4}], ids=["2", "legacy", "4"])
@pytest.mark.parametrize("kind", EXTRAS)
def test_extra_is_left_behind_and_said(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    """The state dict is read bit for bit, whatever lies beside it, and that is named."""
    value = {"model": WEIGHTS, "epoch": 3, "odd one": EXTRAS[kind]()}
    state = codecs.read(saved(value, tmp_path / "a.pth", **options))
    assert list(state) == list(WEIGHTS)
    assert all(same(state[name], tensor) for name, tensor in WEIGHTS.items())
    assert state.origin is not None
    assert any(line.startswith("odd one") for line in state.origin.skipped)


class _Addict(dict[str, Any]):
    """Is pickled as `addict.Dict` and mmcv's `ConfigDict` are: its items come twice."""

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self.items())


@pytest.mark.parametrize("name", ["addict.addict.Dict", "mmcv.utils.config.ConfigDict"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_dictionaries_of_other_packages(
    name: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dictionary by another name is one, though its items are also arguments nobody looks at."""
    module, _, kind = name.rpartition(".")
    made: Any = type(kind, (_Addict,), {"__module__": module})
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        package: Any = types.ModuleType(".".join(parts[:end]))
        setattr(package, kind, made)
        monkeypatch.setitem(sys.modules, package.__name__, package)
    value = {"model": made(WEIGHTS), "odd": made(a=made(b=[1]))}
    state = codecs.read(saved(value, tmp_path / "a.pth", pickle_protocol=protocol))
    assert {n: bytes(t.read().tobytes()) for n, t in state.items()} == {
        n: t.numpy().tobytes() for n, t in WEIGHTS.items()
    }
    assert state.origin is not None
    assert state.origin.skipped == ("odd: a dictionary of 1",)


class Colour(enum.Enum):
    """Stands for a class of somebody's script."""

    RED = 1


def of_script(monkeypatch: pytest.MonkeyPatch) -> Colour:
    """Return a member of an enum that seems to come from the script that is run."""
    monkeypatch.setattr(Colour, "__module__", "__main__")
    monkeypatch.setattr("__main__.Colour", Colour, raising=False)
    return Colour.RED


@pytest.mark.parametrize("suffix", ["pth", "pdparams"])
def test_class_of_the_script_is_named_and_left_out(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown class next to the weights is never imported: its name says what is not ported."""
    value = {"model": {"w": np.ones(2, np.float32)}, "colour": of_script(monkeypatch)}
    data = io.BytesIO()
    if suffix == "pth":
        torch.save(value, data)
    else:
        pickle.dump(value, data, 4)
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(data.getvalue())
    monkeypatch.undo()
    done = repack(path, tmp_path / "b.safetensors")
    assert list(done.state) == ["model.w"]
    assert done.origin.skipped == ("colour: a value of __main__.Colour",)


def read_back(value: object, path: Path) -> Any:
    torch.save(value, path)
    return codecs.read(str(path), strip=False)


class Wrapped:
    """Rebuilds a tensor by a function that no reader knows."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __reduce__(self) -> Any:
        return _rebuilt, (self.tensor, 3)


def _rebuilt(tensor: torch.Tensor, number: int) -> torch.Tensor:
    raise AssertionError("never called")


def test_a_tensor_that_only_an_unknown_function_can_make_is_refused(tmp_path: Path) -> None:
    """Its name and the function are in the message; next to the state dict it is named."""
    value = {"model": {"w": torch.ones(2), "q": Wrapped(torch.ones(2))}}
    with pytest.raises(InputError, match=r"tensor q cannot be ported: only .*_rebuilt can make it"):
        read_back(value, tmp_path / "a.pth")
    beside = {"model": {"w": torch.ones(2)}, "queue": Wrapped(torch.ones(2))}
    (line,) = read_back(beside, tmp_path / "b.pth").origin.skipped
    assert line.startswith("queue: a value of ")
    assert line.endswith("_rebuilt with 1 tensors")


def test_tensors_in_places_that_no_format_keeps_are_named(tmp_path: Path) -> None:
    """Lists inside dictionaries, attributes of parameters and of dictionaries."""
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.scale = torch.ones(3)
    ordered = OrderedDict(w=parameter, v=torch.zeros(1))
    ordered.buffer = torch.ones(4)  # type: ignore[attr-defined]
    value = {"a": {"v": torch.ones(2), "parts": [torch.ones(3), 1]}, "b": ordered}
    found = read_back(value, tmp_path / "a.pth")
    assert list(found) == ["a.v", "b.w", "b.v"]
    assert set(found.origin.skipped) == {
        "a.parts: a list of 2 with 1 tensors",
        "b.w.scale: a tensor outside of the state dict",
        "attribute buffer: a tensor outside of the state dict",
    }


def test_the_classes_in_what_is_left_out_are_named(tmp_path: Path) -> None:
    """Partial functions, optimizers and classes of a framework do not stop a conversion."""
    value = {
        "state_dict": {"w": torch.ones(2)},
        "hyper_parameters": {
            "opt": functools.partial(torch.optim.AdamW, lr=1e-3),
            "act": torch.nn.GELU,
        },
        "optimizer": torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1),
    }
    found = read_back(value, tmp_path / "a.pth")
    assert list(found) == ["state_dict.w"]
    assert found.origin.skipped == (
        "hyper_parameters: a dictionary of 2 (functools.partial)",
        "optimizer: a value of torch.optim.sgd.SGD with 1 tensors",
    )


def test_a_whole_module_is_refused_with_the_way_out(tmp_path: Path) -> None:
    """A module is not a state dict: the message names its class."""
    with pytest.raises(InputError, match=r"net: a whole module .*linear\.Linear.*state_dict\(\)"):
        read_back({"net": torch.nn.Linear(2, 2), "epoch": 3}, tmp_path / "a.pth")


def test_a_state_dict_with_its_description_in_a_tuple_is_found(tmp_path: Path) -> None:
    """`torch.save((state_dict, meta))`."""
    torch.save(({"w": torch.ones(2)}, {"epoch": 3}), tmp_path / "a.pth")
    found = codecs.read(str(tmp_path / "a.pth"))
    assert (list(found), found.origin.wrapper) == (["w"], "0")


@pytest.mark.parametrize(
    ("saved", "wrapper"),
    [
        ([("w", torch.ones(2)), ("b", torch.zeros(3))], ""),
        ((["w", torch.ones(2)], ["b", torch.zeros(3)]), ""),
        ({"model": [("w", torch.ones(2)), ("b", torch.zeros(3))], "epoch": 3}, "model"),
        (([("w", torch.ones(2)), ("b", torch.zeros(3))], {"epoch": 3}), "0"),
    ],
)
def test_names_and_tensors_in_pairs_are_a_state_dict(
    saved: object, wrapper: str, tmp_path: Path
) -> None:
    """`torch.save(list(model.named_parameters()))`."""
    torch.save(saved, tmp_path / "a.pth")
    found = codecs.read(str(tmp_path / "a.pth"))
    assert ({n: t.shape for n, t in found.items()}, found.origin.wrapper) == (
        {"w": (2,), "b": (3,)}, wrapper,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ([("w", torch.ones(2)), ("w", torch.ones(2))], "two tensors would both be called w"),
        ([torch.ones(2), torch.ones(2)], "no tensors under names"),
        ([("w", torch.ones(2)), torch.ones(2)], "no tensors under names"),
    ],
)
def test_lists_without_a_name_for_each_tensor_are_refused(
    saved: object, message: str, tmp_path: Path
) -> None:
    """No name is invented, and no tensor is left out."""
    torch.save(saved, tmp_path / "a.pth")
    with pytest.raises(InputError, match=message):
        codecs.read(str(tmp_path / "a.pth"))


def test_a_dtype_that_changes_after_its_use_is_refused(tmp_path: Path) -> None:
    """One pickled dtype, big-endian for an array and turned around after it."""

    def state(order: bytes) -> bytes:
        return b"(K\x03X\1\0\0\0" + order + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"

    dtype = b"cnumpy\ndtype\n(X\2\0\0\0f4\x89\x88tRq\x05"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0tC\1btR(K\1(K\2t"
        + dtype + state(b">") + b"\x89C\x08" + bytes(8) + b"tb"
    )  # fmt: skip
    path = tmp_path / "a.pdparams"
    path.write_bytes(b"\x80\x03}(X\1\0\0\0w" + array + b"X\1\0\0\0z(h\x05" + state(b"<") + b"tu.")
    with pytest.raises(InputError, match="changes after an array has used it"):
        codecs.read(str(path))
