"""File formats: a checkpoint to a state dict of unread tensors, and back.

A format has a module with `read` and the same or another with `pieces`; `CODECS` says which
there are. Formats are recognised by content, never by name alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, Unpack

from porter.codecs.detect import check_name
from porter.codecs.detect import detect as detect_file
from porter.errors import InputError, UsageError, listed, printable
from porter.storage.input_file import open_input
from porter.storage.sidecar import with_record
from porter.tensors.state_dict import StateDict

if TYPE_CHECKING:
    from porter.codecs.writing import Output
    from porter.storage.atomic_output import Written
    from porter.storage.options import WriteFields, WriteOptions
    from porter.storage.pieces import Piece
    from porter.storage.read_back import Proof


Read: TypeAlias = Callable[..., StateDict]
Pieces: TypeAlias = "Callable[..., Iterator[Piece]]"


MOST_DIMENSIONS = {"torch": 32, "paddle": 32, "npz": 64, "npy": 64}
"""Of a tensor in a file of a format, as its reader checks them."""

EARLIER_METADATA = ("porter.digests", "porter.source_digests", "porter.header_digest",
                    "porter.frame_digest")  # fmt: skip
"""Metadata of earlier versions, true only of the file that they are in."""


class Codec(NamedTuple):
    """One format: what loads how it is read and, unless it is too old, written.

    A module is loaded when it is first asked: who looks into a file waits for one of them.
    """

    title: str
    reading: Callable[[], Read]
    writing: Callable[[], Pieces] | None = None

    @property
    def read(self) -> Read:
        """How it is read."""
        return self.reading()

    @property
    def pieces(self) -> Pieces:
        """What a file of it is made of."""
        assert self.writing is not None, self.title
        return self.writing()


def detect(path: str) -> str:
    """Return the key of `CODECS` that the content of a file calls for."""
    return detect_file(open_input(path))


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
    file = open_input(path)
    found = detect_file(file)
    if format is None:
        check_name(file, found)
    elif format != found:
        raise UsageError(f"is {_codec(found).title}, not {_codec(format).title}", path)
    codec = _codec(found)
    patterns = {"uint16": uint16} if found in ("paddle", "index") else {}
    try:
        return with_record(codec.read(file, key=key, strip=strip, **patterns))
    except UsageError as error:
        raise error if error.path else UsageError(error.message, path) from error


def write(
    state: StateDict,
    path: str,
    format: str,
    options: WriteOptions | None = None,
    *,
    metadata: Mapping[str, str] | None = None,
    inputs: Iterable[str] = (),
    proof: Proof | None = None,
    **keywords: Unpack[WriteFields],
) -> Written:
    """Write a state dict whole or not at all; returns what was written and its digests.

    `format` is a key of `CODECS`; `keywords` are fields of `WriteOptions`, in place of those of
    `options`. `inputs` are the files that are read meanwhile, none of which may be the output.
    `metadata` is the provenance of the output: it is stored in the file where the format has a
    place for it, and in the record `PATH.porter.json`; without, the file has tensors only and
    there is no record. `proof` maps the output back to its source while it is read back.
    """
    from porter.codecs.writing import Output
    from porter.storage.options import WriteOptions

    codec = _codec(format)
    if not codec.writing:
        raise UsageError(f"{codec.title} is read and not written")
    if path.endswith(".pdiparams"):
        raise UsageError("the weights of an inference model are not written: use .pdparams", path)
    options = replace(options or WriteOptions(), **keywords)
    if not state:
        raise UsageError("there is no tensor to write", path)
    _check_dimensions(state, format)
    sources = list(inputs) or (list(state.origin.files) if state.origin else [])

    def output(path: str) -> Output:
        return Output(
            state, path, codec.read, options, metadata=metadata, inputs=sources, proof=proof
        )

    try:
        if options.max_shard_size is not None:
            from porter.codecs.sharded import writing as sharded

            path = path.removesuffix(sharded.SUFFIX)
            shards = sharded.split(state, sharded.parse_size(options.max_shard_size))
            if len(shards) > 1:
                index = path + sharded.SUFFIX
                return sharded.write(output(index), format, codec.pieces, path, shards)
        return _in_one(output(path), codec.pieces)
    except UsageError as error:
        # A codec that refuses a name or dtype does not know the file's name.
        raise error if error.path else UsageError(error.message, path) from error


def _check_dimensions(state: StateDict, format: str) -> None:
    """Raise `InputError` for a tensor of more dimensions than a format's files may have."""
    most = MOST_DIMENSIONS.get(format)
    for name, tensor in state.items():
        if most is not None and len(tensor.shape) > most:
            raise InputError(
                f"{printable(name)!r} has {len(tensor.shape)} dimensions;"
                f" a {format} file has tensors of at most {most}",
                state.origin.path if state.origin else None,
            )


def _in_one(output: Output, pieces: Pieces) -> Written:
    with output.locked():
        made = pieces(output.state, output.metadata or {})
        return output.finished(output.file(output.path, made, output.state, last=True))


def _codec(format: str) -> Codec:
    if format not in CODECS:
        raise UsageError(f"no format is called {format}; there are {listed(CODECS)}")
    return CODECS[format]


# Imports are written out: no name of a module is ever made of text.


def _read_torch() -> Read:
    from porter.codecs.torch.zip_file import read

    return read


def _read_torch_legacy() -> Read:
    from porter.codecs.torch.legacy import read

    return read


def _read_paddle() -> Read:
    from porter.codecs.paddle.reading import read

    return read


def _read_paddle_inference() -> Read:
    from porter.codecs.paddle.inference import read

    return read


def _read_safetensors() -> Read:
    from porter.codecs.safetensors import read

    return read


def _read_npz() -> Read:
    from porter.codecs.numpy.npz import read

    return read


def _read_npy() -> Read:
    from porter.codecs.numpy.npy import read

    return read


def _read_onnx() -> Read:
    from porter.codecs.onnx.weights import read

    return read


def _read_index() -> Read:
    from porter.codecs.sharded.index import read

    return read


def _write_torch() -> Pieces:
    from porter.codecs.torch.writing import pieces

    return pieces


def _write_paddle() -> Pieces:
    from porter.codecs.paddle.writing import pieces

    return pieces


def _write_safetensors() -> Pieces:
    from porter.codecs.safetensors import pieces

    return pieces


def _write_npz() -> Pieces:
    from porter.codecs.numpy.npz import pieces

    return pieces


def _write_npy() -> Pieces:
    from porter.codecs.numpy.npy import pieces

    return pieces


CODECS: dict[str, Codec] = {
    "torch": Codec("a torch checkpoint", _read_torch, _write_torch),
    "torch-legacy": Codec("a torch checkpoint from before 1.6", _read_torch_legacy),
    "paddle": Codec("a Paddle checkpoint", _read_paddle, _write_paddle),
    "paddle-inference": Codec("a Paddle inference model", _read_paddle_inference),
    "safetensors": Codec("a safetensors file", _read_safetensors, _write_safetensors),
    "npz": Codec("a NumPy archive", _read_npz, _write_npz),
    "npy": Codec("a NumPy array", _read_npy, _write_npy),
    "onnx": Codec("an ONNX model", _read_onnx),
    "index": Codec("a checkpoint in shards", _read_index),
}
