"""The one value that flows: an ordered mapping from name to a tensor not yet read."""

from __future__ import annotations

import os
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from dataclasses import dataclass, field

from porter.errors import printable
from porter.tensors.blocks import Array
from porter.tensors.lazy import LazyTensor


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a state dict was read from, and what was found next to its tensors."""

    path: str
    format: str
    """A key of `porter.codecs.CODECS`."""
    files: tuple[str, ...] = ()
    """Every file that was opened: more than one for shards and external data."""
    wrapper: str = ""
    """Key path of the state dict inside the file, `model` say; empty at the top."""
    prefix: str = ""
    """Prefix taken off every name, `module.` say."""
    others: tuple[str, ...] = ()
    """Other state dicts in the same file, by key path."""
    skipped: tuple[str, ...] = ()
    """Entries other than tensors (`epoch`, `optimizer`, `args`), each with its kind."""
    notes: tuple[str, ...] = ()
    """What else the user should know, a sentence each."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """The format's own metadata (safetensors `__metadata__`, ONNX `metadata_props`)."""
    model: str = ""
    """Name of the model that the file records (`arch`, `args.model`); empty if it records none."""
    pictures: Mapping[str, object] = field(default_factory=dict)
    """What the arguments of its training state about pictures: `mean`, `crop_pct`, …"""
    address: str = ""
    """Where the file is, if it is not on this machine: without the query."""

    recovered: tuple[str, ...] = ()
    """How the tensors were found in a graph without their names, in sentences; among `notes`."""

    open_files: tuple[object, ...] = field(default=(), repr=False, compare=False)
    """Files at addresses, which are known by their paths while they are open."""

    @property
    def shown(self) -> str:
        """What to call the file to people: its address, else its path."""
        return self.address or self.path


class StateDict(Mapping[str, LazyTensor]):
    """An ordered, immutable mapping from name to `LazyTensor`, and where it came from."""

    def __init__(self, tensors: Mapping[str, LazyTensor], origin: Origin | None = None) -> None:
        self._tensors = dict(tensors)
        self.origin = origin

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> StateDict:
        """Wrap arrays that are in memory already."""
        return cls({name: LazyTensor.of(array) for name, array in arrays.items()})

    def __getitem__(self, name: str) -> LazyTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    # What `Mapping` makes of the three above takes several times as long.

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def keys(self) -> KeysView[str]:
        """Return the names, in order."""
        return self._tensors.keys()

    def values(self) -> ValuesView[LazyTensor]:
        """Return the tensors, in order."""
        return self._tensors.values()

    def items(self) -> ItemsView[str, LazyTensor]:
        """Return names and tensors, in order."""
        return self._tensors.items()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, shared ones counted each time."""
        return sum(tensor.nbytes for tensor in self.values())

    @property
    def parameters(self) -> int:
        """Elements of all floating tensors."""
        return sum(tensor.size for tensor in self.values() if tensor.dtype.is_float)

    def arrays(self) -> dict[str, Array]:
        """Read everything: {name: array}, for tests and small models."""
        return {name: tensor.read() for name, tensor in self.items()}

    def __repr__(self) -> str:
        where = (
            "" if self.origin is None else f" of {printable(os.path.basename(self.origin.path))}"
        )
        return f"StateDict({len(self)} tensors{where})"
