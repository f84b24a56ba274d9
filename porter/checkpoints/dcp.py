"""torch.distributed.checkpoint: `.metadata` and `*.distcp`, as FSDP and others write them.

    .metadata        a pickle: {name: dtype, shape, chunks} and where each chunk is stored
    __0_0.distcp     the chunks one after the other, each what torch.save writes of one tensor

A chunk is a part of a tensor with its offsets. Chunks along the first axis, as FSDP makes them,
are streamed; any other division is put together in memory. The layouts:
`torch/distributed/checkpoint/metadata.py` and `filesystem.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np

from porter.checkpoints.folder import METADATA
from porter.checkpoints.section import Section
from porter.codecs.pickle.reading import Unpickler
from porter.codecs.pickle.values import Global, Opaque, described
from porter.codecs.torch import zip_file
from porter.codecs.torch.names import TORCH
from porter.codecs.torch.views import TorchTensor
from porter.codecs.unwrap import check_total, unwrap
from porter.errors import InputError, printable
from porter.storage.input_file import InputFile, open_beside
from porter.tensors.blocks import Array, c_order_blocks
from porter.tensors.dtypes import DType
from porter.tensors.lazy import LazyTensor, Shape
from porter.tensors.state_dict import Origin, StateDict
from porter.tensors.streams import StreamedTensor

FORMAT = "dcp"
LARGEST_METADATA = 1 << 30
_MOST_PAIRED = 2048
"""Chunks of one tensor that are compared with each other."""
_PACKAGE = "torch.distributed."


def read(folder: str, *, key: str | None = None, strip: bool = True) -> StateDict:
    """Return the state dict of a folder; `key` names one of several."""
    path = os.path.join(folder, METADATA)
    file = InputFile(path)
    if file.size > LARGEST_METADATA:
        raise InputError(f"has {file.size} bytes; {LARGEST_METADATA} is the limit", path)
    metadata = Unpickler(file, 0, file.size, TORCH).load()
    try:
        stored = _Stored(path, metadata)
        found = unwrap(stored.tree(), _leaf, key, strip=strip)
        check_total(found.tensors, sum(part.size for part in stored.files.values()))
    except InputError as error:
        raise error if error.path else InputError(error.message, path) from error
    origin = Origin(
        folder,
        FORMAT,
        (path, *(part.path for part in stored.files.values())),
        found.wrapper,
        found.prefix,
        found.others,
        found.skipped,
    )
    return StateDict(found.tensors, origin)


class _Chunk(NamedTuple):
    """A part of a tensor and where it is stored."""

    offsets: Shape
    sizes: Shape
    file: InputFile
    start: int
    nbytes: int

    def tensor(self, dtype: DType, name: str) -> LazyTensor:
        """Return the part as its own file of torch has it."""
        tensor = zip_file.tree(Section(self.file, self.start, self.nbytes))
        if type(tensor) is not TorchTensor or (tensor.shape, tensor.dtype) != (self.sizes, dtype):
            what = f"{dtype.name} {list(self.sizes)} of {printable(name)}"
            where = f"byte {self.start}"
            raise InputError(f"{where}: not the {what} that {METADATA} says", self.file.path)
        return tensor.lazy()

    def blocks(self, dtype: DType, name: str, limit: int) -> Iterator[memoryview]:
        """Yield the bytes of the part."""
        tensor = self.tensor(dtype, name)
        if tensor.extent is None:  # A descriptor of a section cannot be read in columns.
            yield from c_order_blocks(tensor.read(), limit)
        else:
            yield from tensor.blocks(limit)


class _Chunked:
    """A tensor in chunks."""

    __slots__ = ("_chunks", "_dtype", "_name", "_rows", "_shape", "problem")

    attributes = None

    def __init__(self, name: str, dtype: object, shape: Shape, chunks: list[_Chunk]) -> None:
        self._name = name
        self._shape = shape
        self._chunks = sorted(chunks)
        self.problem = "" if isinstance(dtype, DType) else f"of dtype {described(dtype)}"
        self._dtype: Any = dtype
        if not _covers(shape, self._chunks):
            raise InputError(f"the chunks of {printable(name)} do not make up {list(shape)}")
        self._rows = all(chunk.sizes[1:] == shape[1:] for chunk in self._chunks)

    def lazy(self) -> LazyTensor:
        """Return the tensor, its chunks not yet opened."""
        dtype: DType = self._dtype
        if not self._rows:
            nbytes = prod(self._shape) * dtype.itemsize
            return StreamedTensor(
                dtype, self._shape, self._whole, self._assembled, held=nbytes, tie=self
            )
        return StreamedTensor(dtype, self._shape, self._whole, self._stream, tie=self)

    def _stream(self, limit: int) -> Iterator[memoryview]:
        for chunk in self._chunks:
            yield from chunk.blocks(self._dtype, self._name, limit)

    def _assembled(self, limit: int) -> Iterator[memoryview]:
        yield from c_order_blocks(self._whole(), limit)

    def _whole(self) -> Array:
        whole = np.empty(self._shape, self._dtype.numpy)
        for chunk in self._chunks:
            ends = (begin + size for begin, size in zip(chunk.offsets, chunk.sizes, strict=True))
            where = tuple(map(slice, chunk.offsets, ends))
            whole[where] = chunk.tensor(self._dtype, self._name).read()
        return whole


def _leaf(value: object) -> _Chunked | None:
    return value if type(value) is _Chunked else None


def _covers(shape: Shape, chunks: list[_Chunk]) -> bool:
    """Whether chunks lie in a tensor, do not overlap, and fill it."""
    if sum(prod(chunk.sizes) for chunk in chunks) != prod(shape):
        return False
    if not chunks or not shape:
        return bool(chunks) or 0 in shape
    begins = np.array([chunk.offsets for chunk in chunks], np.int64)
    ends = begins + np.array([chunk.sizes for chunk in chunks], np.int64)
    if (begins < 0).any() or (ends > np.array(shape)).any():
        return False
    if all(chunk.sizes[1:] == shape[1:] for chunk in chunks):
        return bool((begins[1:, 0] == ends[:-1, 0]).all())
    if len(chunks) > _MOST_PAIRED:
        raise InputError(f"a tensor in {len(chunks)} chunks that are not along its first axis")
    return not any(
        ((begins[at + 1 :] < ends[at]) & (begins[at] < ends[at + 1 :])).all(1).any()
        for at in range(len(chunks))
    )


class _Stored:
    """What the metadata says."""

    def __init__(self, path: str, metadata: object) -> None:
        self._path = path
        self.files: dict[str, InputFile] = {}
        fields = _fields(metadata, "Metadata", "the metadata")
        self._tensors = _dictionary(fields, "state_dict_metadata")
        self._paths = fields.get("planner_data")
        self._places: dict[tuple[str, Shape], dict[Any, Any]] = {}
        for index, info in _dictionary(fields, "storage_data").items():
            names = _fields(index, "MetadataIndex", "an index")
            offset = names.get("offset")
            if type(names.get("fqn")) is str and offset is not None:
                place = _fields(info, "_StorageInfo", "a place")
                self._places[names["fqn"], _shape(offset)] = place

    def tree(self) -> dict[str, Any]:
        """Return what was saved, nested as it was; what is not a tensor is bytes."""
        top: dict[str, Any] = {}
        for name, kind in self._tensors.items():
            if type(name) is not str:
                raise InputError("a name that is not text")
            steps = self._paths.get(name) if type(self._paths) is dict else None
            if type(steps) is not tuple or not steps:
                steps = (name,)
            if any(type(step) not in (str, int) for step in steps):
                raise InputError(f"the path of {printable(name)} is malformed")
            inner: Any = top
            for step in steps[:-1]:
                inner = inner.setdefault(str(step), {})
                if type(inner) is not dict:
                    raise InputError(f"{printable(name)} is below what is not a dictionary")
            if str(steps[-1]) in inner:
                raise InputError(f"two entries are called {printable(name)}")
            inner[str(steps[-1])] = self._entry(name, kind)
        return top

    def _entry(self, name: str, kind: object) -> object:
        if type(kind) is not Opaque or not kind.kind.endswith(".TensorStorageMetadata"):
            return b""
        fields = _fields(kind, "TensorStorageMetadata", printable(name))
        properties = _state(fields.get("properties"), "TensorProperties", printable(name))
        dtype = properties.get("dtype") if type(properties) is dict else properties[0]
        chunks = [self._chunk(name, chunk) for chunk in fields.get("chunks") or ()]
        known = dtype.value if type(dtype) is Global and dtype.value is not None else dtype
        return _Chunked(
            name, known, _shape(fields.get("size")), [c for c in chunks if 0 not in c.sizes]
        )

    def _chunk(self, name: str, value: object) -> _Chunk:
        fields = _fields(value, "ChunkStorageMetadata", printable(name))
        offsets, sizes = _shape(fields.get("offsets")), _shape(fields.get("sizes"))
        place = self._places.get((name, offsets))
        if place is None or len(offsets) != len(sizes):
            raise InputError(f"{printable(name)} has a chunk that is stored nowhere")
        if place.get("transform_descriptors"):
            kinds = printable(place["transform_descriptors"], 40)
            raise InputError(
                f"{printable(name)} was changed on the way to the file ({kinds}), which porter does"
                " not undo: save it without extensions"
            )
        file, start, nbytes = (place.get(k) for k in ("relative_path", "offset", "length"))
        if type(file) is not str or type(start) is not int or type(nbytes) is not int:
            raise InputError(f"the place of {printable(name)} is malformed")
        if file not in self.files:
            self.files[file] = open_beside(self._path, file, hard_links=True)
        Section(
            self.files[file], start, nbytes
        )  # Too short a file is seen before anything is read.
        return _Chunk(offsets, sizes, self.files[file], start, nbytes)


def _state(value: object, name: str, where: str) -> Any:
    """Return what was set on an object of torch's, after its class was compared."""
    known = type(value) is Opaque and value.kind.startswith(_PACKAGE)
    if not known or not value.kind.endswith(f".{name}") or len(value.parts) != 1:  # type: ignore[attr-defined]
        found = described(value)
        raise InputError(f"{where} is {found}, not {name} of torch.distributed.checkpoint")
    state = value.parts[0]  # type: ignore[attr-defined]
    if type(state) is tuple and len(state) == 2 and state[0] is None:
        state = state[1]
    if type(state) not in (dict, tuple) or not state:
        raise InputError(f"{where} is malformed")
    return state


def _fields(value: object, name: str, where: str) -> dict[Any, Any]:
    state = _state(value, name, where)
    if type(state) is not dict:
        raise InputError(f"{where} is malformed")
    return state


def _dictionary(fields: Mapping[Any, Any], name: str) -> dict[Any, Any]:
    value = fields.get(name)
    if type(value) is not dict or not value:
        raise InputError(f"the metadata has no {name}")
    return value


def _shape(value: object) -> Shape:
    if type(value) not in (tuple, list) or any(type(n) is not int or n < 0 for n in value):  # type: ignore[attr-defined]
        raise InputError("a shape that is malformed")
    return tuple(value)  # type: ignore[arg-type]
