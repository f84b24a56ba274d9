"""Write a checkpoint to another container; names, layout and values stay as they are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Unpack

from porter import __version__, codecs
from porter.checkpoints.placeholders import refuse_shard
from porter.codecs import CODECS, safetensors
from porter.codecs.detect import SUFFIXES, container_of
from porter.commands.options import (
    Container,
    FloatType,
    ShardKeywords,
    Uint16,
    checked_options,
)
from porter.commands.outgoing import in_shards, to_addresses
from porter.errors import InputError, UsageError, listed, printable
from porter.remote import fetch
from porter.storage.atomic_output import Written
from porter.storage.progress import Progress
from porter.tensors import casts
from porter.tensors.state_dict import Origin, StateDict

_OWN = (*codecs.EARLIER_METADATA, safetensors.TIES)
_STEP = ("porter.source_key", "porter.dtype", "porter.uint16", "porter.layout", "porter.without")
"""Options of an earlier conversion, which are not those of this one."""


@dataclass(frozen=True, slots=True)
class Repacking:
    """The result of writing another container."""

    state: StateDict
    origin: Origin
    written: Written
    format: str
    """A key of `porter.codecs.CODECS`."""
    casts: Mapping[str, casts.Cast] = field(default_factory=dict)
    """What the cast of each tensor cost."""

    def __repr__(self) -> str:
        source, written = self.origin, self.written
        sides = f"{source.shown} ({source.format}) → {written.path} ({self.format})"
        return f"Repacking({sides}, {len(self.state)} tensors)"


@in_shards
@to_addresses
@checked_options(ShardKeywords)
def repack(
    input: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    from_: str | None = None,
    to: Container | None = None,
    dtype: FloatType | None = None,
    max_shard_size: str | int | None = None,
    key: str | None = None,
    uint16: Uint16 = "auto",
    force: bool = False,
    progress: Progress | None = None,
    **options: Unpack[ShardKeywords],
) -> Repacking:
    """Write a state dict to another container; names, layout and values stay as they are.

    Parameters:
        input: Path or address of the checkpoint.
        output: Path of the file to write.
        from_: Format of `input`, where its suffix means another one.
        to: Container; None for the one that the suffix of `output` means.
        dtype: Floating type to cast to; None keeps every dtype.
        max_shard_size: Bytes, or a text such as "5GB": a larger output is cut into shards.
        key: Name of one of several state dicts; its names then lose their key path.
        uint16: Meaning of Paddle's two-byte elements; "auto" to follow the file.
        force: Replace an existing output.
        progress: Called with a step's name, the bytes done and the bytes in all.
        options: How the output is written: `read_back`, `sync`, `digests`, `digest`,
            `record`, `pool` and `places`, as in `porter.convert`.

    Returns a `Repacking`: the state dict, its origin, and the path, size and digests written.
    Raises `InputError`, `UsageError` or `SystemFault`; nothing is then written.
    """
    target = os.fspath(output)
    format = to or format_of(target)
    state = fetch.read(input, key=key, format=from_, strip=False, uint16=uint16, progress=progress)
    origin = state.origin
    assert origin is not None
    if not state:
        raise InputError("has no tensors", origin.shown)
    refuse_shard(origin.shown)
    costs: dict[str, casts.Cast] = {}
    if dtype is not None:
        state, costs = casts.cast(state, dtype)
    written = codecs.write(
        state,
        target,
        format,
        force=force,
        metadata=_metadata(origin, format, dtype, uint16),
        max_shard_size=max_shard_size,
        inputs=origin.files,
        progress=progress,
        **options,
    )
    return Repacking(state, origin, written, format, costs)


def format_of(path: str) -> str:
    """Return the container that a file's name asks for; `UsageError` if it asks for none."""
    container = container_of(path)
    if container is None or CODECS[container].writing is None:
        written = (name for name, codec in CODECS.items() if codec.writing is not None)
        known = listed((suffix for name in written for suffix in SUFFIXES[name]), 12)
        raise UsageError(f"its suffix is not one of {known}; rename it, or use --to", path)
    return container


def _metadata(origin: Origin, format: str, dtype: str | None, uint16: str) -> dict[str, str]:
    """Return the metadata of the source, with this step's provenance in place of the last."""
    found = {key: value for key, value in origin.metadata.items() if key not in (*_OWN, *_STEP)}
    if format == "safetensors":
        found.setdefault("format", "pt")
    found["porter.version"] = __version__
    found["porter.source"] = printable(origin.address or os.path.basename(origin.path), 400)
    found["porter.source_format"] = origin.format
    if origin.wrapper:
        found["porter.source_key"] = printable(origin.wrapper)
    if dtype is not None:
        found["porter.dtype"] = dtype
    if uint16 != "auto":
        found["porter.uint16"] = uint16
    return found
