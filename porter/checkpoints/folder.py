"""Find the checkpoint in a folder.

A folder is one of these, the first that fits:

1. `.metadata` and `*.distcp`: torch.distributed.checkpoint (FSDP's sharded form too);
2. `*_optim_states.pt`, `*_model_states.pt`: DeepSpeed;
3. weight files as in a snapshot of a hub: one index or one file, safetensors before the others;
4. `latest`, a file with the name of a folder below; `refs/main` of a hub's cache; one folder
   below that is of kind 1 or 2.

Everything else is refused with the next step.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from porter.codecs.detect import INDEX_SUFFIX, SUFFIXES, container_of
from porter.errors import InputError, SystemFault, listed, printable
from porter.storage.input_file import InputFile, check_relative

METADATA = ".metadata"
PART = ".distcp"
_DEEPSPEED = ("_optim_states.pt", "_model_states.pt")
_DEEPEST = 3
_LONGEST_TAG = 4096
_MOST_FILES = 100_000

_ORDER = ("safetensors", "torch", "paddle", "npz", "onnx")
"""Containers, the one that is taken first where a folder has several."""
_USUAL = (
    "model",
    "pytorch_model",
    "model_state",
    "open_clip_pytorch_model",
    "diffusion_pytorch_model",
)
"""Names of the weights in a snapshot, without suffix; other files next to one of them are not."""
_TRAINED = ("best_accuracy.pdparams", "best_model.pdparams")
"""What PaddleOCR, PaddleClas and PaddleDetection call the best of the checkpoints of a training,
next to `latest.pdparams` and those of epochs."""
_NOT_WEIGHTS = (  # Compiled when first needed, as those below: most inputs are one file.
    r"(training_args|optimizer|scheduler|scaler|rng_state.*|random_states.*|optim.*|meta"
    r"|trainer_state|adapter_model|.*\.opt|sampler.*)\.(bin|pt|pth|pkl|safetensors|pdopt)|.*\.pdopt"
)
_FOREIGN = (".h5", ".msgpack", ".gguf", ".ot", ".tflite", ".keras", ".pb", ".mlmodel", ".nemo")
"""Suffixes of weights that porter does not read."""
_NUMBERED = r"(?s:(.*)-([0-9]{5,})-of-([0-9]{5,})\.[a-z]+)"


class Place(NamedTuple):
    """Where the weights are: a file, or a folder of `kind` "dcp" or "deepspeed"."""

    kind: str
    path: str
    notes: tuple[str, ...] = ()


def find(given: str, format: str | None = None) -> Place:
    """Return where the weights of a checkpoint are; a file outside of such a folder is itself.

    `format` is the container to take where a folder has several.
    """
    folder, name = os.path.split(given)
    if os.path.isdir(given):
        return _in_folder(given, format, 0)
    if name == METADATA or name.endswith(PART):
        return _distributed(folder or ".", (f"{name} is a part of the checkpoint in its folder",))
    return Place("file", given)


def _in_folder(folder: str, format: str | None, depth: int) -> Place:
    names = _names(folder)
    if METADATA in names or any(name.endswith(PART) for name in names):
        return _distributed(folder)
    if any(name.endswith(_DEEPSPEED) for name in names):
        return Place("deepspeed", folder)
    # The masters that `latest` leads to come before a copy of less precision.
    below = _named_folder(folder, names) if depth < _DEEPEST else None
    if below is not None:
        place = _in_folder(os.path.join(folder, below), format, depth + 1)
        return place._replace(notes=(f"the folder {printable(below)} is taken", *place.notes))
    if found := weights(folder, _files(folder, names), format):
        return found
    return _below(folder, names, format, depth)


def _distributed(folder: str, notes: tuple[str, ...] = ()) -> Place:
    if not os.path.exists(os.path.join(folder, METADATA)):
        raise InputError(
            f"has *{PART} and not {METADATA}, which says what is in them: copy it from where the"
            " checkpoint was written",
            folder,
        )
    return Place("dcp", folder, notes)


def _names(folder: str) -> list[str]:
    try:
        names = sorted(os.listdir(folder))
    except OSError as fault:
        raise SystemFault(f"cannot be listed: {fault.strerror}", folder) from fault
    if len(names) > _MOST_FILES:
        raise InputError(f"has {len(names)} files; {_MOST_FILES} is the limit", folder)
    return names


def _named_folder(folder: str, names: list[str]) -> str | None:
    """Return the folder that a file with its name leads to: `latest`, or `refs/main` of a hub."""
    if "latest" in names and os.path.isfile(os.path.join(folder, "latest")):
        return _tag(folder, "latest")
    if "snapshots" in names and "refs" in names:
        if os.path.isfile(os.path.join(folder, "refs", "main")):
            return os.path.join("snapshots", _tag(folder, "refs/main"))
        revisions = _folders(os.path.join(folder, "snapshots"))
        if len(revisions) == 1:
            return os.path.join("snapshots", revisions[0])
    return None


def _tag(folder: str, name: str) -> str:
    path = os.path.join(folder, name)
    with InputFile(path) as file:
        data = file.pread(0, min(file.size, _LONGEST_TAG))
    tag = data.decode("utf-8", "replace").strip()
    check_relative(path, tag)
    below = "snapshots" if name == "refs/main" else ""
    if not os.path.isdir(os.path.join(folder, below, tag)):
        raise InputError(f"names the folder {printable(tag)}, which is not there", path)
    return tag


def _folders(folder: str) -> list[str]:
    return [name for name in _names(folder) if os.path.isdir(os.path.join(folder, name))]


def _files(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if os.path.isfile(os.path.join(folder, name))]


def weights(folder: str, names: list[str], format: str | None) -> Place | None:
    """Return the index or the file that has the weights; None where there is none.

    `names` are those of the files in the folder, which may be at an address.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        container = container_of(name)
        if container is not None and not re.fullmatch(_NOT_WEIGHTS, name.lower()):
            wanted = format is None or container == format.removesuffix("-legacy")
            if wanted:
                groups.setdefault(container, []).append(name)
    for container in _ORDER:
        if container in groups:
            chosen = _chosen(folder, groups.pop(container))
            others = [name for group in groups.values() for name in group if _usual(name)]
            if chosen in _TRAINED:
                others += [name for name in names if name.endswith(".pdparams") and name != chosen]
            notes = [f"{printable(chosen)} is read"]
            if others:
                notes[0] += f", not {listed(others, 4)}: give the path of a file for another"
            return Place("file", os.path.join(folder, chosen), tuple(notes))
    return None


def _usual(name: str) -> bool:
    return not re.fullmatch(_NUMBERED, name)


def _chosen(folder: str, names: list[str]) -> str:
    """Return the one index or file of a container; `InputError` where several could be meant."""
    indexes = [name for name in names if name.endswith(INDEX_SUFFIX)]
    whole = [name for name in names if name not in indexes and _usual(name)]
    trained = [name for name in whole if name in _TRAINED]
    for candidates in (_best(whole), trained, _best(indexes)):
        if len(candidates) == 1:
            return candidates[0]
    if whole or indexes:
        several = listed([*indexes, *whole])
        raise InputError(f"has several files of weights: {several}; give the path of one", folder)
    raise InputError(_without_index(names), folder)


def _best(names: list[str]) -> list[str]:
    """Return the names that are the usual ones, all where none is."""
    usual = [name for name in names if name.partition(".")[0] in _USUAL and name.count(".") < 4]
    plain = [name for name in usual if _stem(name) in _USUAL]
    return plain or usual or names


def _stem(name: str) -> str:
    return os.path.splitext(name.removesuffix(INDEX_SUFFIX))[0]


def _without_index(names: list[str]) -> str:
    match = re.fullmatch(_NUMBERED, names[0])
    assert match is not None
    suffix = os.path.splitext(names[0])[1]
    index = f"{match[1]}{suffix}{INDEX_SUFFIX}"
    return (
        f"has shards and no index of them: {listed(names, 4)}; {printable(index)} belongs to them,"
        " download it too"
    )


def _below(folder: str, names: list[str], format: str | None, depth: int) -> Place:
    """Return the only checkpoint in a folder below; `InputError` unless there is one."""
    found: dict[str, Place] = {}
    if depth < _DEEPEST:
        for name in names:
            path = os.path.join(folder, name)
            is_other = name.startswith((".", "optimizer")) or name == "global_step"
            if not is_other and not os.path.islink(path) and os.path.isdir(path):
                place = _looked_into(path)
                if place is not None:
                    found[name] = place
    if len(found) == 1:
        name, place = next(iter(found.items()))
        return place._replace(notes=(f"the folder {printable(name)} is taken", *place.notes))
    if found:
        raise InputError(f"has no weights itself; give one of {listed(found)} in it", folder)
    raise InputError(_without_weights(folder, names), folder)


def _looked_into(folder: str) -> Place | None:
    """Return the checkpoint directly in a folder, without going further down."""
    names = _names(folder)
    if METADATA in names:
        return Place("dcp", folder)
    if any(name.endswith(_DEEPSPEED) for name in names):
        return Place("deepspeed", folder)
    try:
        return weights(folder, _files(folder, names), None)
    except InputError:
        return Place("file", folder)  # One of several: whoever names it is told which.


def _without_weights(folder: str, names: list[str]) -> str:
    foreign = [name for name in names if name.endswith(_FOREIGN)]
    if foreign:
        return f"has weights only in {listed(foreign, 4)}, which porter does not read"
    if not names:
        return "has no weights: it is empty"
    shown = listed(names, 4)
    if any(name.endswith(".pdmodel") or name == "inference.json" for name in names):
        return f"has a Paddle program without its weights ({shown}): put the .pdiparams next to it"
    wanted = f"{_USUAL[0]}{SUFFIXES['safetensors'][0]} or pytorch_model.bin"
    return f"has no weights in it ({shown}): download {wanted}, or run git lfs pull"
