"""torch's own names: tensors, their lazy bits and storages, made from arguments that may lie."""

from __future__ import annotations

from typing import Any

import pytest

from porter.codecs.pickle.ndarrays import MOST_ELEMENTS
from porter.codecs.pickle.values import Global, Opaque
from porter.codecs.torch.names import TORCH, Unportable, _subclass, _tensor_v2, _tensor_v3
from porter.codecs.torch.storages import Storage, Storages
from porter.codecs.torch.views import TorchTensor
from porter.errors import InputError
from porter.tensors.dtypes import DTYPES

REBUILD = TORCH["torch._utils", "_rebuild_tensor_v2"]


def tensor(name: str, *bits: Any) -> Any:
    """Return what a tensor of two elements becomes, with its lazy bits if there are any."""
    storage = Storage("0", DTYPES[name], 2 * DTYPES[name].itemsize)
    return _tensor_v2((storage, 0, (2,), (1,), False, {}, *bits))


@pytest.mark.parametrize(
    ("name", "bits", "conj", "neg"),
    [
        ("complex64", (), False, False),
        ("complex64", (None,), False, False),
        ("complex64", ({},), False, False),
        ("complex64", ({"conj": True},), True, False),
        ("complex64", ({"conj": False, "neg": True},), False, True),
        ("float32", ({"conj": True, "neg": True},), False, True),
        ("uint8", ({"conj": True, "neg": False},), False, False),
    ],
)
def test_lazy_bits_are_taken_where_they_mean_something(
    name: str, bits: tuple[Any, ...], conj: bool, neg: bool
) -> None:
    """A real tensor is its own conjugate; a bit that is off, or not there, changes nothing."""
    made = tensor(name, *bits)
    assert isinstance(made, TorchTensor)
    assert (made.conj, made.neg) == (conj, neg)


@pytest.mark.parametrize(
    ("name", "portable"),
    [
        ("float16", True),
        ("bfloat16", True),
        ("int8", True),
        ("complex128", True),
        ("uint8", False),
        ("bool", False),
        ("float8_e4m3fn", False),
    ],
)
def test_negative_views_are_of_what_has_a_sign(name: str, portable: bool) -> None:
    """A negative view of what has no negative numbers is not ported."""
    made = tensor(name, {"neg": True})
    if portable:
        assert isinstance(made, TorchTensor)
    else:
        assert isinstance(made, Unportable)
        assert made.problem == f"a negative view of {name}"


def test_tensor_in_no_storage_is_refused() -> None:
    """Where the storage goes stands a storage, in every version of the description."""
    with pytest.raises(InputError, match="a tensor whose description is malformed"):
        _tensor_v2(("text", 0, (2,), (1,), False, {}))
    with pytest.raises(InputError, match="a tensor whose description is malformed"):
        _tensor_v3(("text", 0, (2,), (1,), False, {}, TORCH["torch", "float32"]))


def test_class_is_known_by_its_name_and_not_by_its_looks() -> None:
    """A value that is shown as torch's tensor is not the name of it."""
    store = Storage("0", DTYPES["float32"], 8)
    inner = (store, 0, (2,), (1,), False, {})
    made = _subclass((REBUILD, Global("torch", "Tensor"), inner, {}))
    assert isinstance(made, TorchTensor)
    assert isinstance(_subclass((REBUILD, Opaque("torch.Tensor"), inner, {})), Unportable)


def test_storage_of_the_limit_is_one() -> None:
    """So many elements, from none to more than any file holds."""
    kind = TORCH["torch", "FloatStorage"]
    for numel in (0, MOST_ELEMENTS):
        found = Storages().load(("storage", kind, "0", "cpu", numel))
        assert (found.nbytes, found.views) == (4 * numel, 0)
    for numel in (-1, MOST_ELEMENTS + 1):
        with pytest.raises(InputError, match="a storage whose key or length is malformed"):
            Storages().load(("storage", kind, "0", "cpu", numel))
