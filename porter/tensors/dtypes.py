"""Element types and what each format calls them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from porter.errors import UsageError
from porter.tensors.blocks import Array


class DType(NamedTuple):
    """One element type and what each format calls it (None: the format has none)."""

    name: str
    code: str
    """NumPy's, or the name in `ml_dtypes`."""
    itemsize: int
    """Bytes of one element."""
    safetensors: str | None = None
    torch: str | None = None
    storage: str | None = None
    """Class name of torch's typed storage; None: only `_rebuild_tensor_v3` can hold it."""
    paddle: str | None = None
    """What a `.pdparams` keeps: NumPy's type code of the array (bfloat16 goes as uint16)."""
    onnx: int | None = None
    """`TensorProto.DataType`."""

    @property
    def numpy(self) -> np.dtype[Any]:
        """NumPy's dtype, little endian."""
        known = _NUMPY.get(self.code)
        return _ml(self.code) if known is None else known

    @property
    def is_ml(self) -> bool:
        """Whether NumPy knows it by `ml_dtypes` alone."""
        return self.code == self.name

    @property
    def is_float(self) -> bool:
        """Whether it is a real floating type (complex is not)."""
        return self.name.startswith(("float", "bfloat"))


def _ml(name: str) -> np.dtype[Any]:
    import ml_dtypes  # For the few files that have such tensors.

    dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    return _NUMPY.setdefault(name, dtype)


# fmt: off
# ruff: noqa: E501  (the table reads better in columns)
DTYPES: dict[str, DType] = {
    d.name: d
    for d in (
        #     name               numpy                   bytes safetensors  torch                storage                paddle  onnx
        DType("float64",         "<f8",                  8,  "F64",       "float64",           "DoubleStorage",       "f8",   11),
        DType("float32",         "<f4",                  4,  "F32",       "float32",           "FloatStorage",        "f4",   1),
        DType("float16",         "<f2",                  2,  "F16",       "float16",           "HalfStorage",         "f2",   10),
        DType("bfloat16",        "bfloat16",             2,  "BF16",      "bfloat16",          "BFloat16Storage",     "u2",   16),
        DType("float8_e4m3fn",   "float8_e4m3fn",        1,  "F8_E4M3",   "float8_e4m3fn",     None,                  None,   17),
        DType("float8_e4m3fnuz", "float8_e4m3fnuz",      1,  "F8_E4M3FNUZ", "float8_e4m3fnuz", None,                  None,   18),
        DType("float8_e5m2",     "float8_e5m2",          1,  "F8_E5M2",   "float8_e5m2",       None,                  None,   19),
        DType("float8_e5m2fnuz", "float8_e5m2fnuz",      1,  "F8_E5M2FNUZ", "float8_e5m2fnuz", None,                  None,   20),
        DType("float8_e8m0fnu",  "float8_e8m0fnu",       1,  "F8_E8M0",   "float8_e8m0fnu",    None,                  None,   24),
        DType("complex64",       "<c8",                  8,  "C64",       "complex64",         "ComplexFloatStorage", "c8",   14),
        DType("complex128",      "<c16",                 16, None,        "complex128",        "ComplexDoubleStorage", "c16", 15),
        DType("int64",           "<i8",                  8,  "I64",       "int64",             "LongStorage",         "i8",   7),
        DType("int32",           "<i4",                  4,  "I32",       "int32",             "IntStorage",          "i4",   6),
        DType("int16",           "<i2",                  2,  "I16",       "int16",             "ShortStorage",        "i2",   5),
        DType("int8",            "i1",                   1,  "I8",        "int8",              "CharStorage",         "i1",   3),
        DType("uint64",          "<u8",                  8,  "U64",       "uint64",            None,                  None,   13),
        DType("uint32",          "<u4",                  4,  "U32",       "uint32",            None,                  None,   12),
        DType("uint16",          "<u2",                  2,  "U16",       "uint16",            None,                  None,   4),
        DType("uint8",           "u1",                   1,  "U8",        "uint8",             "ByteStorage",         "u1",   2),
        DType("bool",            "?",                    1,  "BOOL",      "bool",              "BoolStorage",         "b1",   9),
    )
}
# fmt: on

_NUMPY: dict[str, np.dtype[Any]] = {
    d.code: np.dtype(d.code) for d in DTYPES.values() if not d.is_ml
}
"""Those of NumPy itself, and those of `ml_dtypes` that were asked for."""


def dtype_of(array: Array) -> DType:
    """Return the dtype of an array of any byte order."""
    found = DTYPES.get(array.dtype.name)
    if found is None or found.numpy != array.dtype.newbyteorder("<"):
        raise UsageError(f"no tensor format has NumPy's {array.dtype}")
    return found
