"""File formats: a checkpoint to a state dict of unread tensors, and back.

A format has a module with `read` and the same or another with `pieces`; `CODECS` says which
there are. Formats are recognised by content, never by name alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from porter.codecs.beside import with_record
from porter.codecs.detect import check_name
from porter.codecs.detect import detect as detect_file
from porter.codecs.digests import XXH3, check_method
from porter.codecs.files import InputFile
from porter.errors import UsageError, listed
from porter.tensor import StateDict

if TYPE_CHECKING:
    from porter.codecs.output import Written
    from porter.codecs.pieces import Piece
    from porter.codecs.saving import Progress


@dataclass(frozen=True, slots=True)
class Codec:
    """One format: the modules that read and, unless it is too old, write it.

    A module is loaded when it is first asked: who looks into a file waits for one of them.
    """

    title: str
    reading: str
    writing: str = ""

    @property
    def read(self) -> Callable[..., StateDict]:
        """How it is read."""
        return cast("Callable[..., StateDict]", _own(self.reading, "read"))

    @property
    def pieces(self) -> Callable[[StateDict, Mapping[str, str]], Iterator[Piece]]:
        """What a file of it is made of."""
        return cast("Callable[..., Iterator[Piece]]", _own(self.writing, "pieces"))


def _own(module: str, name: str) -> Any:
    return getattr(import_module(f"porter.codecs.{module}"), name)


def detect(path: str) -> str:
    """Return the key of `CODECS` that the content of a file calls for."""
    with InputFile(path) as file:
        return detect_file(file)


def read(
    path: str,
    *,
    key: str | None = None,
    format: str | None = None,
    strip: bool = True,
    uint16: str = "auto",
) -> StateDict:
    """Return the state dict of a checkpoint of any format, its tensors not yet read.

    `key` names one state dict where the file holds several; `format` (a key of `CODECS`) says
    what a file is whose name says otherwise; with `strip`, prefixes that wrappers put before all
    names (`module.`) are taken off; `uint16` ("auto", "uint16" or "bfloat16") is what Paddle's
    two-byte patterns are. Raises `InputError` for what is refused.
    """
    file = InputFile(path)
    found = detect_file(file)
    if format is None:
        check_name(file, found)
    elif format != found:
        raise UsageError(f"is {_codec(found).title}, not {_codec(format).title}", path)
    codec = _codec(found)
    patterns = {"uint16": uint16} if found == "paddle" else {}
    try:
        return with_record(codec.read(file, key=key, strip=strip, **patterns))
    except UsageError as error:
        raise error if error.path else UsageError(error.message, path) from error


def write(
    state: StateDict,
    path: str,
    format: str,
    *,
    force: bool = False,
    metadata: Mapping[str, str] | None = None,
    max_shard_size: str | int | None = None,
    read_back: bool = True,
    sync: bool = True,
    digests: bool = True,
    digest: str = XXH3,
    layout: str = "contiguous",
    inputs: Iterable[str] = (),
    progress: Progress | None = None,
) -> Written:
    """Write a state dict whole or not at all; returns what was written and its digests.

    `format` is a key of `CODECS`. An existing file is replaced only with `force`; `inputs` are
    the files that are read meanwhile, none of which may be the output. `metadata` is what the
    output carries: its provenance goes with it, in the file or in `PATH.porter.json` beside it;
    without, the file holds tensors alone. `max_shard_size` (bytes, or "5GB") cuts the output;
    `read_back` reads it again before it gets its name, `sync` brings it to the disk before that;
    without `digests` bytes are copied and not looked at, `digest` ("xxh3" or "sha256") is how they
    are taken. What was left out is in the provenance.
    `layout="view"` has torch and Paddle files state a transpose instead of doing it.
    `progress` is called with what is done, the bytes done and the bytes in all.
    """
    from porter.codecs.layout import check as check_layout
    from porter.codecs.saving import Saver, save

    codec = _codec(format)
    if not codec.writing:
        raise UsageError(f"{codec.title} is read and not written")
    check_layout(layout, format)
    check_method(digest)
    if metadata is not None:
        metadata = metadata if layout == "contiguous" else {**metadata, "porter.layout": layout}
        care = {"read back": read_back, "sync": sync, "digests": digests}
        if left_out := [what for what, done in care.items() if not done]:
            metadata = {**metadata, "porter.without": ", ".join(left_out)}
    sources = list(inputs) or (list(state.origin.files) if state.origin else [])
    method = digest if digests else ""
    return save(
        Saver(format, codec.pieces, codec.read, read_back, progress, sync, method, layout),
        state,
        path,
        force=force,
        metadata=metadata,
        max_shard_size=max_shard_size,
        inputs=sources,
    )


def _codec(format: str) -> Codec:
    if format not in CODECS:
        raise UsageError(f"no format is called {format}; there are {listed(CODECS)}")
    return CODECS[format]


CODECS: dict[str, Codec] = {
    "torch": Codec("a torch checkpoint", "torch_zip", "torch_writing"),
    "torch-legacy": Codec("a torch checkpoint from before 1.6", "torch_legacy"),
    "paddle": Codec("a Paddle checkpoint", "paddle", "paddle_writing"),
    "safetensors": Codec("a safetensors file", "safetensors", "safetensors"),
    "npz": Codec("a NumPy archive", "npz", "npz"),
    "npy": Codec("a NumPy array", "npy", "npy"),
    "onnx": Codec("an ONNX model", "onnx_weights"),
    "index": Codec("a checkpoint in shards", "sharded"),
}
