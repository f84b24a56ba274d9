"""The metadata that porter wrote into a file, and how far they can be believed.

While the graph has the digest that is recorded, the file is as porter wrote it and its weights are
read by name. A graph that another tool rewrote is read as a foreign one; what the metadata say
then helps to find the weights, and whether they are the same is known from their digests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from porter.codecs.onnx.transposed import stored_name, transposed
from porter.errors import InputError, listed
from porter.mapping.fold import fold
from porter.onnx.export import metadata as notes
from porter.onnx.export.model import TENSORS
from porter.onnx.graph.fingerprint import fingerprint
from porter.onnx.graph.parse import parse
from porter.storage.digests import method_of
from porter.storage.input_file import InputFile
from porter.storage.read_back import digests_of
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict

_LONGEST = 64 << 20
_SUFFIX = stored_name("")


def is_as_written(path: str) -> bool:
    """Whether porter wrote the graph of a file, and nothing has changed it since.

    `InputError` for a file that is not an ONNX model.
    """
    try:
        with InputFile(path) as file:
            model = parse(file)
    except InputError as error:
        raise InputError(error.message, path) from error
    recorded = model.metadata.get(notes.GRAPH)
    if recorded is None or model.functions:  # a function could give an operation another meaning
        return False
    try:
        return recorded == fingerprint(model.graph, model.opsets)
    except InputError:  # an attribute that porter does not write
        return False


def is_rewritten(state: StateDict) -> bool:
    """Whether the metadata of a file are porter's, whatever its graph is now."""
    return state.origin is not None and notes.UNUSED in state.origin.metadata


def digests(state: StateDict) -> dict[str, str]:
    """Return {name: digest} of the weights as porter wrote them, empty where nothing is recorded
    or the note is malformed."""
    text = state.origin.metadata.get(TENSORS, "") if state.origin is not None else ""
    try:
        rows = dict(json.loads(text if len(text) <= _LONGEST else ""))
        methods = {method_of(digest) for digest in rows.values()}
    except (ValueError, TypeError, RecursionError, InputError):
        return {}
    return rows if len(methods) == 1 else {}


def unused(source: StateDict) -> StateDict:
    """Return the tensors that the graph did not need, as the metadata have them."""
    return notes.with_unused(StateDict({}, source.origin))


def with_unused(found: Mapping[str, LazyTensor], source: StateDict) -> dict[str, LazyTensor]:
    """Return recovered tensors with those that the graph did not need, as the metadata have them.

    Only a tensor that has a place in `found`, of that dtype and shape, is taken.
    """
    noted = unused(source)
    return {
        name: noted[name] if name in noted and _alike(noted[name], tensor) else tensor
        for name, tensor in found.items()
    }


def _alike(one: LazyTensor, other: LazyTensor) -> bool:
    return (one.dtype, one.shape) == (other.dtype, other.shape)


def comparison(found: Mapping[str, LazyTensor], recorded: Mapping[str, str]) -> str:
    """Return in one sentence whether recovered tensors are those that porter wrote."""
    stored = {name: tensor for name in recorded if (tensor := _stored(name, found)) is not None}
    if not stored:
        return "the graph is not as it was recorded, or was not recorded"
    method = method_of(next(iter(recorded.values())))
    now = digests_of(stored, method=method)
    other = [name for name in stored if now[name] != recorded[name]]
    if not other:
        return (
            f"another tool rewrote the graph; its {len(stored)} weights are those that porter"
            " wrote, bit for bit"
        )
    types = listed(dict.fromkeys(stored[name].dtype.name for name in other))
    changed = fold(name.removesuffix(_SUFFIX) for name in other)
    return (
        f"another tool rewrote the graph and changed {len(other)} of the {len(stored)} weights that"
        f" porter wrote ({listed(changed, 4)}), which are {types} now"
    )


def _stored(name: str, found: Mapping[str, LazyTensor]) -> LazyTensor | None:
    """Return a recovered tensor as porter stores it under a name, None without one."""
    if name in found:
        return found[name]
    plain = found.get(name.removesuffix(_SUFFIX))
    return None if plain is None or len(plain.shape) != 2 else transposed(plain)
