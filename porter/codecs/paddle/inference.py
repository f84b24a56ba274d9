"""A Paddle inference model: a program and, next to it, its parameters in one stream.

The stream (`.pdiparams`) has no names: the tensors are in the order of the names of the program.

    u32 0, u64 levels of LoD (0), u32 0, i32 size, TensorDesc, elements      for each tensor

Either file may be given; the other one is next to it, with the same name before the suffix.
`paddle/phi/core/framework/dense_tensor_serialize.cc`
"""

from __future__ import annotations

import os
from math import prod

from porter.codecs.detect import is_stream
from porter.codecs.flat import flat
from porter.codecs.paddle.program import BY_CODE, Parameter, parameters, tensor_desc
from porter.codecs.protobuf import Span, Walker
from porter.errors import InputError, UsageError, printable
from porter.storage.input_file import InputFile
from porter.tensors.lazy import Extent, LazyTensor
from porter.tensors.state_dict import Origin, StateDict

FORMAT = "paddle-inference"
STREAM = ".pdiparams"
PROGRAMS = (".json", ".pdmodel")
_HEAD = 20
"""Bytes before the TensorDesc."""
_LARGEST_DESC = 1 << 10


def read(file: InputFile, *, key: str | None = None, strip: bool = True) -> StateDict:
    """Return the parameters of an inference model under the names of its program."""
    program, stream = pair(file)
    known = parameters(program)
    if not known:
        raise InputError("a Paddle program without parameters", program.path)
    tensors = _tensors(stream, sorted(known.values(), key=lambda p: p.name.encode()))
    kind = "PIR" if program.path.endswith(".json") else "ProgramDesc"
    note = f"An inference model of Paddle: the names are those of its program ({kind})."
    paths = (file.path, program.path if file is stream else stream.path)
    ordered = {name: tensors[name] for name in known}
    return flat(ordered, Origin(file.path, FORMAT, paths, notes=(note,)), key=key, strip=strip)


def pair(file: InputFile) -> tuple[InputFile, InputFile]:
    """Return (program, stream) of the one that was given."""
    stem, suffix = os.path.splitext(file.path)
    if is_stream(file.pread(0, min(32, file.size))):
        for program in PROGRAMS:
            if os.path.exists(stem + program):
                return InputFile(stem + program), file
        names = " or ".join(os.path.basename(stem) + program for program in PROGRAMS)
        raise InputError(
            f"is a parameter stream of Paddle, whose names are in the program: put {names}"
            " next to it",
            file.path,
        )
    stream = stem + STREAM
    if suffix not in PROGRAMS or not os.path.exists(stream):
        name = os.path.basename(stream if suffix in PROGRAMS else file.path + STREAM)
        raise UsageError(
            f"is a program of Paddle, whose weights are in another file: put {name} next to it",
            file.path,
        )
    return file, InputFile(stream)


def _tensors(file: InputFile, known: list[Parameter]) -> dict[str, LazyTensor]:
    """Return the tensors of a stream, which must be those that the program declares."""
    walker = Walker(file, "parameter stream of Paddle")
    tensors: dict[str, LazyTensor] = {}
    at = 0
    for parameter in known:
        tensor, at = _tensor(walker, at, parameter)
        tensors[parameter.name] = tensor
    if at != file.size:
        raise InputError(
            f"the program has {len(known)} parameters, the stream goes on at byte {at}", file.path
        )
    return tensors


def _tensor(walker: Walker, at: int, parameter: Parameter) -> tuple[LazyTensor, int]:
    """Return the tensor at a position, and where it ends."""
    file, name = walker.file, printable(parameter.name)
    if at + _HEAD > file.size:
        raise InputError(f"truncated: {name} is not in the file", file.path)
    head = file.pread(at, _HEAD)
    if any(head[:16]):
        raise walker.broken(f"{name} does not begin at byte {at}")
    size = int.from_bytes(head[16:], "little", signed=True)
    start = at + _HEAD + size
    if not 0 < size <= _LARGEST_DESC or start > file.size:
        raise walker.broken(f"{name} has a description of {size} bytes at byte {at}")
    code, dims = tensor_desc(walker, Span(at + _HEAD, start))
    dtype = BY_CODE.get(code)
    if dtype is not parameter.dtype or tuple(dims) != parameter.shape:
        found = f"{'another type' if dtype is None else dtype.name} {dims}"
        wanted = f"{parameter.dtype.name} {list(parameter.shape)}"
        raise InputError(f"{name} is {found}, the program says {wanted}", file.path)
    nbytes = prod(parameter.shape) * parameter.dtype.itemsize
    if start + nbytes > file.size:
        what = f"{nbytes} bytes of {name} wanted at byte {start}"
        raise InputError(f"truncated: {what}, the file has {file.size}", file.path)
    extent = Extent(file, start, nbytes)
    return LazyTensor.stored(parameter.dtype, parameter.shape, extent), start + nbytes
