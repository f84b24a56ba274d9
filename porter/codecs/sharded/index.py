"""A checkpoint in several files with an index, as Hugging Face lays them out: reading.

    model.safetensors.index.json   {"metadata": {"total_size": 32}, "weight_map": {"a": FILE, …}}
    model-00001-of-00002.safetensors, model-00002-of-00002.safetensors

PaddleNLP writes the same as `model_state.pdparams.index.json`. Index and shards must have the
same tensors; the rest of an index is often wrong (a `total_size` of another dtype, entries of
other programs, paths of Windows) and gives notes. Writing is in `writing`.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from porter.codecs import safetensors
from porter.codecs.detect import INDEX_SUFFIX, detect
from porter.codecs.flat import flat
from porter.codecs.json_scan import Scanner
from porter.codecs.paddle import reading as paddle
from porter.codecs.torch import legacy, zip_file
from porter.errors import InputError, listed, printable
from porter.storage.input_file import InputFile, check_relative, open_beside
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import Origin, StateDict

SUFFIX = INDEX_SUFFIX
LARGEST_INDEX = 256 << 20
MOST_TENSORS = 1_000_000

_WHOLE = re.compile(r"[0-9]{1,18}")
_NUMBERED = re.compile(r"(.*)-([0-9]{5,9})-of-([0-9]{5,9})(\.[a-z]+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Index:
    """The contents of an index."""

    files: dict[str, str]
    """Name of a tensor to the name of its file."""
    total_size: float | None
    notes: tuple[str, ...] = ()
    """What is unusual in it and changes nothing."""


def read(
    file: InputFile, *, key: str | None = None, strip: bool = True, uint16: str = "auto"
) -> StateDict:
    """Return the tensors of all shards; `InputError` when they and the index disagree.

    `uint16` is for shards of Paddle's, as in their codec.
    """
    index = read_index(file)
    _check_numbers(file.path, set(index.files.values()))
    tensors: dict[str, LazyTensor] = {}
    origins: list[Origin] = []
    for name in dict.fromkeys(index.files.values()):
        shard = _shard(file.path, name, uint16)
        assert shard.origin is not None
        origins.append(shard.origin)
        for tensor in shard:
            if tensor in tensors:
                raise InputError(f"two shards contain {printable(tensor)}", file.path)
            if index.files.get(tensor) != name:
                told = printable(index.files.get(tensor, "nowhere"))
                what = f"{printable(tensor)} is in {printable(name)}; the index says {told}"
                raise InputError(what, file.path)
        tensors.update(shard)
    if missing := [name for name in index.files if name not in tensors]:
        raise InputError(
            f"the index lists tensors that no shard contains: {listed(missing)}", file.path
        )
    first = origins[0]
    found = (*index.notes, *_size_note(index, tensors))
    origin = replace(
        first,
        path=file.path,
        files=(file.path, *(origin.path for origin in origins)),
        notes=tuple(dict.fromkeys([*found, *(n for origin in origins for n in origin.notes)])),
    )
    ordered = {name: tensors[name] for name in index.files}
    return flat(ordered, origin, key=key, strip=strip)


def read_index(file: InputFile) -> Index:
    """Return what an index says; `InputError` when it is none."""
    if file.size > LARGEST_INDEX:
        raise InputError(f"an index of {file.size} bytes; {LARGEST_INDEX} is the limit", file.path)
    try:
        text = file.pread(0, file.size).decode("utf-8")
    except UnicodeDecodeError as fault:
        raise InputError("the index is not UTF-8", file.path) from fault
    scanner = Scanner(text, file.path, "index")
    files: dict[str, str] | None = None
    size: float | None = None
    more: list[str] = []
    for key in scanner.entries():
        if key == "metadata":
            size = _total_size(scanner)
        elif key == "weight_map":
            files = _weight_map(scanner)
        else:
            scanner.pass_over()
            more.append(key)
    scanner.finish()
    if not files:
        scanner.refuse("there is no weight_map, or nothing in it")
    notes = [f"the index has entries that porter does not use: {listed(more)}"] if more else []
    if any("\\" in name for name in set(files.values())):
        files = {tensor: name.replace("\\", "/") for tensor, name in files.items()}
        notes.append("the paths in the index are those of Windows: \\ is read as /")
    return Index(_plain(files, file.path), size, tuple(notes))


def _plain(files: dict[str, str], path: str) -> dict[str, str]:
    """Return the files by one spelling each (`./x` is `x`); none may be out of the folder."""
    spelled: dict[str, str] = {}
    for name in dict.fromkeys(files.values()):
        check_relative(path, name)
        spelled[name] = posixpath.normpath(name)
    return {tensor: spelled[name] for tensor, name in files.items()}


def _total_size(scanner: Scanner) -> float | None:
    """Return the total, None where there is none; one that is not a number is -1."""
    size = None
    scanner.skip()
    if scanner.peek() != "{":
        scanner.pass_over()
        return None
    for key in scanner.entries():
        scanner.skip()
        if key != "total_size" or scanner.peek() in ("{", "["):
            scanner.pass_over()
            size = -1.0 if key == "total_size" else size
            continue
        value = scanner.scalar()
        if isinstance(value, str):
            size = float(value) if _WHOLE.fullmatch(value) else -1.0
        else:
            size = value
    return size


def _weight_map(scanner: Scanner) -> dict[str, str]:
    files: dict[str, str] = {}
    shared: dict[str, str] = {}
    for name in scanner.entries():
        if len(files) == MOST_TENSORS:
            scanner.refuse(f"more than {MOST_TENSORS} tensors")
        scanner.skip()
        if scanner.peek() != '"':
            scanner.refuse(f"the file of {printable(name)} is not text")
        shard = scanner.string()
        files[name] = shared.setdefault(shard, shard)
    return files


def _check_numbers(path: str, names: set[str]) -> None:
    """Refuse an index that leaves out one of the shards that the names count."""
    counted = set()
    for name in names:
        match = _NUMBERED.fullmatch(name)
        if match is None:
            continue
        stem, _, count, suffix = match.groups()
        if (stem, count, suffix) in counted:
            continue
        counted.add((stem, count, suffix))
        if int(count) > len(names):
            what = f"{printable(name)} is one of {int(count)} shards, the index names {len(names)}"
            raise InputError(what, path)
        for number in range(1, int(count) + 1):
            other = f"{stem}-{number:0{len(count)}d}-of-{count}{suffix}"
            if other not in names:
                raise InputError(f"the index does not name {printable(other)}", path)


def _shard(index: str, name: str, uint16: str) -> StateDict:
    file = open_beside(index, name, hard_links=True)
    readers: dict[str, Callable[..., StateDict]] = {
        "safetensors": safetensors.read,
        "torch": zip_file.read,
        "torch-legacy": legacy.read,
        "paddle": partial(paddle.read, uint16=uint16),
    }
    found = detect(file)
    if found not in readers:
        raise InputError(f"is {found}, not a shard of a checkpoint", file.path)
    return readers[found](file, strip=False)


def _size_note(index: Index, tensors: dict[str, LazyTensor]) -> Iterator[str]:
    """Compare with the index's total, in which writers count shared tensors once or each."""
    if index.total_size is None:
        return
    once: dict[Hashable, int] = {}
    for name, tensor in tensors.items():
        once[(index.files[name], tensor.tie) if tensor.tie is not None else name] = tensor.nbytes
    every = sum(tensor.nbytes for tensor in tensors.values())
    if index.total_size not in (every, sum(once.values())):
        total = f"{index.total_size:.0f}" if index.total_size >= 0 else "not a number"
        yield f"total_size of the index is {total}, the shards have {every} bytes"


def text_of(files: Mapping[str, str], total_size: int) -> bytes:
    """Return the index as porter writes it; `files` is name of a tensor to name of its file."""
    index = {"metadata": {"total_size": total_size}, "weight_map": dict(files)}
    return json.dumps(index, indent=2, ensure_ascii=False).encode("utf-8") + b"\n"


def names(path: str, count: int) -> list[str]:
    """Return the paths of `count` shards of the checkpoint at `path`."""
    stem, suffix = os.path.splitext(path)
    return [f"{stem}-{number:05d}-of-{count:05d}{suffix}" for number in range(1, count + 1)]
