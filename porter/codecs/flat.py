"""State dicts of formats that cannot nest: names only, nothing to unwrap but a prefix."""

from __future__ import annotations

from dataclasses import replace

from porter.codecs.unwrap import common_prefix
from porter.errors import UsageError, printable
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import Origin, StateDict


def flat(
    tensors: dict[str, LazyTensor], origin: Origin, *, key: str | None, strip: bool
) -> StateDict:
    """Return the state dict; with `strip`, without the prefixes that wrappers put before names.

    A `key` says which of several state dicts is meant: here there are not several.
    """
    if key:
        what = f"no state dict is called {printable(key)}: {origin.format} files have one"
        raise UsageError(what, origin.path)
    prefix = common_prefix(tensors) if strip else ""
    if prefix:
        tensors = {name[len(prefix) :]: tensor for name, tensor in tensors.items()}
        origin = replace(origin, prefix=prefix)
    return StateDict(tensors, origin)
