"""The names in a torch checkpoint that make tensors, and the table of all that it may mention.

The shapes of the calls: `torch/_utils.py` and `torch/_tensor.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from porter.codecs.pickle.names import COMMON
from porter.codecs.pickle.ndarrays import NUMPY, NdArray, checked_shape
from porter.codecs.pickle.values import Global, described, shown
from porter.codecs.torch.storages import Storage, StorageType
from porter.codecs.torch.views import TorchTensor
from porter.codecs.unwrap import Leaf
from porter.errors import InputError
from porter.tensors.dtypes import DTYPES, DType
from porter.tensors.lazy import LazyTensor


class Unportable:
    """A tensor of a kind that no other format can hold."""

    __slots__ = ("attributes", "problem")

    def __init__(self, problem: str) -> None:
        self.problem = problem
        self.attributes: object = None

    def lazy(self) -> LazyTensor:
        """Never called: who has a problem is refused first."""
        raise AssertionError(self.problem)


def _view(arguments: tuple[Any, ...], dtype: DType | None = None) -> TorchTensor:
    """Make a tensor of `(storage, offset, size, stride, …)`."""
    storage, offset, size, stride = arguments[:4]
    if type(storage) is not Storage or type(stride) is not tuple:
        raise InputError("a tensor whose description is malformed")
    dtype = dtype or storage.dtype
    if dtype is None:
        raise InputError("a tensor of no dtype")
    return TorchTensor(storage, dtype, offset, checked_shape(size), stride)


def _tensor_v1(arguments: tuple[Any, ...]) -> object:
    if len(arguments) != 4:
        raise InputError("a tensor whose description is malformed")
    return _view(arguments)


def _tensor_v2(arguments: tuple[Any, ...]) -> object:
    if len(arguments) not in (6, 7):
        raise InputError("a tensor whose description is malformed")
    return _with_bits(_view(arguments), arguments[6:])


def _tensor_v3(arguments: tuple[Any, ...]) -> object:
    if len(arguments) not in (7, 8):
        raise InputError("a tensor whose description is malformed")
    named = arguments[6]
    dtype = named.value if type(named) is Global else None
    if not isinstance(dtype, DType):
        return Unportable(f"of dtype {shown(named)}")
    if type(arguments[0]) is Storage and arguments[0].dtype not in (None, dtype):
        raise InputError("a tensor of one dtype in a storage of another")
    return _with_bits(_view(arguments, dtype), arguments[7:])


def _with_bits(tensor: TorchTensor, metadata: tuple[Any, ...]) -> TorchTensor | Unportable:
    """Take in the lazy conjugate and negative bits, the last argument if there is one."""
    if metadata and metadata[0] is not None:
        bits = metadata[0]
        if type(bits) is not dict or not set(bits) <= {"conj", "neg"}:
            raise InputError("a tensor with bits that are neither conj nor neg")
        tensor.conj = bits.get("conj") is True and tensor.dtype.numpy.kind == "c"
        tensor.neg = bits.get("neg") is True
        if tensor.neg and not _has_negative(tensor.dtype):
            return Unportable(f"a negative view of {tensor.dtype.name}")
    return tensor


def _has_negative(dtype: DType) -> bool:
    """Whether turning the sign bit, or NumPy's own negation, gives minus the value."""
    return dtype.numpy.kind in "ci" or (dtype.is_float and not dtype.name.startswith("float8"))


def _parameter(arguments: tuple[Any, ...]) -> object:
    if len(arguments) not in (3, 4) or type(arguments[0]) not in (TorchTensor, Unportable):
        raise InputError("a parameter that is not a tensor")
    tensor = arguments[0]
    tensor.attributes = arguments[3] if len(arguments) == 4 else None
    return tensor


def _subclass(arguments: tuple[Any, ...]) -> object:
    """Stand for `_rebuild_from_type_v2(function, type, arguments, state)`."""
    if len(arguments) != 4 or type(arguments[0]) is not Global or type(arguments[2]) is not tuple:
        raise InputError("a tensor subclass whose description is malformed")
    function, kind, inner = arguments[:3]
    # Of `torch._utils` only: a subclass of a subclass of a … would never end.
    make = function.make if function.module == "torch._utils" else None
    if make is None:
        raise InputError(f"a tensor subclass made by {function!r}")
    tensor = make(inner)
    if type(kind) is not Global or repr(kind) not in _PLAIN_TYPES:
        return Unportable(f"of the class {described(kind)}")
    if type(tensor) is TorchTensor:
        tensor.attributes = arguments[3]
    return tensor


def _never(problem: str) -> Any:
    def make(arguments: tuple[Any, ...]) -> Unportable:
        return Unportable(problem)

    return make


def _refused(arguments: tuple[Any, ...]) -> object:
    raise InputError("makes a tensor without values")


_QUANTIZED = {"QInt8": 1, "QUInt8": 1, "QInt32": 4}
_STORAGES: dict[str, StorageType] = {
    **{d.storage: StorageType(d, d.itemsize) for d in DTYPES.values() if d.storage},
    **{f"{name}Storage": StorageType(None, width) for name, width in _QUANTIZED.items()},
}
_PLAIN_TYPES = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
_REBUILD = {
    "_rebuild_tensor": _tensor_v1,
    "_rebuild_tensor_v2": _tensor_v2,
    "_rebuild_tensor_v3": _tensor_v3,
    "_rebuild_parameter": _parameter,
    "_rebuild_parameter_with_state": _parameter,
    "_rebuild_qtensor": _never("quantized"),
    "_rebuild_sparse_tensor": _never("sparse"),
    "_rebuild_sparse_csr_tensor": _never("sparse"),
    "_rebuild_nested_tensor": _never("nested"),
    "_rebuild_meta_tensor_no_storage": _never("on the meta device, without values"),
    "_rebuild_device_tensor_from_numpy": _never("of a foreign device"),
    "_rebuild_device_tensor_from_cpu_tensor": _never("of a foreign device"),
    "_rebuild_wrapper_subclass": _never("a wrapper subclass"),
}
_SCHEMES = ("per_tensor_affine", "per_channel_affine", "per_channel_affine_float_qparams")
_OTHER_DTYPES = (
    "qint8 quint8 qint32 quint4x2 quint2x4 complex32 float4_e2m1fn_x2"
    " bits8 bits16 bits1x8 bits2x4 bits4x2"
)


def _torch_rows() -> Iterator[Global]:
    for name, make in _REBUILD.items():
        yield Global("torch._utils", name, make)
    for module in ("torch", "torch.cuda"):
        for name, held in _STORAGES.items():
            yield Global(module, name, value=held)
            yield Global(module, name.replace("Storage", "Tensor"), _refused)
    for module in ("torch", "torch.storage"):
        yield Global(module, "UntypedStorage", value=StorageType(None, 1))
    for dtype in DTYPES.values():
        if dtype.torch:
            yield Global("torch", dtype.torch, value=dtype)
    for name in (*_OTHER_DTYPES.split(), *_SCHEMES):
        yield Global("torch", name)
    yield Global("torch._tensor", "_rebuild_from_type_v2", _subclass)
    yield Global("torch", "Tensor", _refused)
    yield Global("torch.nn.parameter", "Parameter", _refused)
    yield Global("torch.nn.parameter", "Buffer", _refused)


TORCH: dict[tuple[str, str], Global] = {
    **COMMON,
    **NUMPY,
    **{(row.module, row.name): row for row in _torch_rows()},
}
"""The name table of a torch checkpoint."""


def leaf(value: object) -> Leaf | None:
    """Return the tensor that a value of the pickle is, if it is one."""
    if type(value) in (TorchTensor, NdArray, Unportable):
        return value  # type: ignore[return-value]
    return None
