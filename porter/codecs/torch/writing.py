"""torch's zip checkpoints as pieces: the file that `torch.save` would write for an OrderedDict."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping

from porter.codecs.pickle.writing import Pickling
from porter.codecs.zip.writing import ALIGNMENT, Content, zip_pieces
from porter.errors import UsageError, printable
from porter.storage.pieces import Body, Piece
from porter.tensors.lazy import LazyTensor, Shape
from porter.tensors.state_dict import StateDict

_ROOT = "archive"
_BATCH = 1000
"""Pairs that a pickler sets at a time."""


def pieces(state: StateDict, metadata: Mapping[str, str]) -> Iterator[Piece]:
    """Yield the pieces of the file that `torch.save` would write for an OrderedDict.

    Tensors with one tie share a storage. The format has no place for `metadata`.
    """
    bodies, keys = _bodies(state)
    yield from zip_pieces(
        [
            Content(f"{_ROOT}/data.pkl", _data_pkl(state, keys)),
            Content(f"{_ROOT}/.format_version", b"1"),
            Content(f"{_ROOT}/.storage_alignment", str(ALIGNMENT).encode()),
            Content(f"{_ROOT}/byteorder", b"little"),
            *(Content(f"{_ROOT}/data/{i}", b"", body) for i, body in enumerate(bodies)),
            Content(f"{_ROOT}/version", b"3\n"),
        ]
    )


def _bodies(state: StateDict) -> tuple[list[Body], dict[str, str]]:
    """Return one body for each storage, and the storage key of each tensor."""
    bodies: list[Body] = []
    keys: dict[str, str] = {}
    shared: dict[Hashable, str] = {}
    for name, tensor in state.items():
        _check_dtype(name, tensor)
        tie = None if tensor.tie is None else (tensor.tie, tensor.dtype.name, tensor.shape)
        if tie is None or tie not in shared:
            key = str(len(bodies))
            bodies.append(Body(name, tensor))
            if tie is not None:
                shared[tie] = key
        else:
            key = shared[tie]
        keys[name] = key
    return bodies, keys


def _check_dtype(name: str, tensor: LazyTensor) -> None:
    if tensor.dtype.torch is None:
        raise UsageError(f"torch cannot store {printable(name)}: its dtype is {tensor.dtype.name}")


def _data_pkl(state: StateDict, keys: Mapping[str, str]) -> bytes:
    out = Pickling(2)
    _ordered_dict(out).memoize()
    names = list(state)
    for start in range(0, len(names), _BATCH):
        batch = names[start : start + _BATCH]
        alone = len(batch) == 1
        out.raw(b"" if alone else b"(")
        for name in batch:
            out.fresh_text(name)
            _tensor(out, state[name], keys[name])
        out.raw(b"s" if alone else b"u")
    return out.raw(b".").take()


def _ordered_dict(out: Pickling) -> Pickling:
    """Push an empty one, not yet noted."""
    return out.name("collections", "OrderedDict").raw(b")R")


def _tensor(out: Pickling, tensor: LazyTensor, key: str) -> None:
    """Write the call of `_rebuild_tensor_v2`, or of `_v3` where no storage has the dtype."""
    storage = tensor.dtype.storage
    typed = storage is not None
    out.again(("rebuild", storage), lambda out: _rebuild(out, storage))
    out.text(key, ("key", key)).again("cpu", lambda out: out.text("cpu"))
    out.integer(tensor.size if typed else tensor.nbytes).raw(b"t").memoize().raw(b"Q")
    out.integer(0).integers(tensor.shape).integers(_strides(tensor.shape))
    out.again("no gradient, no hooks", _no_hooks).memoize()
    if not typed:
        out.name("torch", str(tensor.dtype.torch))
    out.raw(b"t").memoize().raw(b"R").memoize()


def _rebuild(out: Pickling, storage: str | None) -> None:
    """Begin the call and, within it, the reference to a storage."""
    out.name("torch._utils", "_rebuild_tensor_v2" if storage else "_rebuild_tensor_v3").raw(b"((")
    out.text("storage", "storage")
    if storage:
        out.name("torch", storage)
    else:
        out.name("torch.storage", "UntypedStorage")


def _no_hooks(out: Pickling) -> None:
    _ordered_dict(out.boolean(False))


def _strides(shape: Shape) -> Shape:
    """Return the strides of C order as torch counts them: a length of 0 counts as 1."""
    strides: list[int] = []
    step = 1
    for length in reversed(shape):
        strides.append(step)
        step *= max(length, 1)
    return tuple(reversed(strides))
