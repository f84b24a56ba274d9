"""The dictionary of a model that reads text: which class is which character.

PaddleOCR keeps it in a file of one character a line, which `config.yml` of a training names, and in
`inference.yml` of an inference model.
Class 0 is a blank, the last one usually a space; neither is in a dictionary.
`ppocr/postprocess/rec_postprocess.py`, `paddlex/modules/base/weight_converter.py`
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from porter.checkpoints.beside import PREPROCESSOR, PROGRAM, beside, place, read_yaml
from porter.errors import InputError, PorterError, UsageError, printable
from porter.storage.input_file import read_small
from porter.tensors.state_dict import Origin

LIST = "character_list"
"""The key in `preprocessor_config.json` of transformers."""
BLANK = "blank"
_LARGEST = 16 << 20
_TRAININGS = ("config.yml", "config.yaml", "../config.yml", "../config.yaml")
"""What PaddleOCR and PaddleX write into the folder of a training."""
_HIGHEST = 5
"""Folders above a configuration in which the path of a dictionary may begin."""


class Dictionary(NamedTuple):
    """The character of each class, and where they are from."""

    characters: tuple[str, ...] = ()
    """Empty where none is known."""
    why: str = ""


def characters_of(origin: Origin | None, classes: int) -> Dictionary:
    """Return the characters that are stated next to a checkpoint, or in its metadata.

    One for another number of classes is not taken; `why` says so.
    """
    why = ""
    for name, found in _stated(origin):
        if isinstance(found, str):
            why = why or found
            continue
        characters = _completed(found, classes)
        if characters:
            return Dictionary(characters, name)
        why = why or f"{name} has {len(found)} characters, not those of {classes} classes"
    return Dictionary((), why)


def read_characters(path: str | os.PathLike[str], classes: int) -> Dictionary:
    """Return the characters in a dictionary, JSON or YAML file of the user.

    `UsageError` where there are more or fewer than classes.
    """
    name = os.fspath(path)
    if name.endswith((".yml", ".yaml")):
        found = _of_program(name)
        if isinstance(found, str):
            raise InputError(found, path)
    else:
        found = _lines(name)
    characters = _completed(found, classes)
    if not characters:
        what = f"{len(found)} characters for {classes} classes; a blank and a space are added to"
        raise UsageError(f"{what} {classes - 2} lines", path)
    return Dictionary(characters, f"{os.path.basename(name)}, given")


def _stated(origin: Origin | None) -> list[tuple[str, list[str] | str]]:
    """Return (place, characters or why there are none)."""
    if origin is None:
        return []
    rows: list[tuple[str, list[str] | str]] = []
    listed = beside(origin, PREPROCESSOR).get(LIST)
    if _are_texts(listed):
        rows.append((PREPROCESSOR, listed))
    path = place(origin, PROGRAM)
    if path:
        rows.append((PROGRAM, _of_program(path)))
    if found := _of_training(origin):
        rows.append(found)
    if inside := origin.metadata.get("character"):  # of the ONNX files of rapidocr
        rows.append(("metadata of the file", inside.split("\n")))
    return rows


def _of_training(origin: Origin) -> tuple[str, list[str] | str] | None:
    """Return (place, characters or why there are none) of the `config.yml` of a training.

    It is next to the checkpoint, or a folder above: `best_model/model.pdparams`. It names a file,
    relative to the repository that the training ran in; one of that name next to it is taken, too.
    """
    config = next(filter(None, (place(origin, name) for name in _TRAININGS)), "")
    if not config:
        return None
    name = os.path.basename(config)
    try:
        body = read_yaml(config)
    except (PorterError, ValueError, RecursionError) as fault:
        return name, f"{name} cannot be read: {printable(fault, 200)}"
    body = body.get("Global") if isinstance(body, dict) else None
    stated = body.get("character_dict_path") if isinstance(body, dict) else None
    if not isinstance(stated, str) or "\0" in stated:
        return None
    folders = [Path(os.path.abspath(config)).parent]
    folders += folders[0].parents[:_HIGHEST]
    paths = [*(folder / stated for folder in folders), folders[0] / os.path.basename(stated)]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return name, f"{name} names the dictionary {printable(stated, 200)}, which is not there"
    try:
        return f"{path.name}, which {name} names", _lines(os.fspath(path))
    except PorterError as fault:
        return name, f"{path.name}, which {name} names: {fault.message}"


def _are_texts(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


def _completed(found: Sequence[str], classes: int) -> tuple[str, ...]:
    """Return one character a class, empty where their number is another."""
    ends = {classes: ((), ()), classes - 1: ((BLANK,), ()), classes - 2: ((BLANK,), (" ",))}
    first, last = ends.get(len(found), ((), ()))
    return (*first, *found, *last) if len(found) in ends else ()


def _lines(path: str) -> list[str]:
    """Return the lines of a dictionary as they are: a space may be a character."""
    try:
        text = read_small(path, _LARGEST).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"the dictionary cannot be read: {error}", path) from error
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        found = found.get(LIST)
    if _are_texts(found):
        return list(found)
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def _of_program(path: str) -> list[str] | str:
    """Return the characters in an `inference.yml`, or why there are none."""
    name = os.path.basename(path)
    try:
        body = read_yaml(path)
    except (PorterError, ValueError, RecursionError) as fault:
        return f"{name} cannot be read: {printable(fault, 200)}"
    body = body.get("PostProcess") if isinstance(body, dict) else None
    body = body.get("character_dict") if isinstance(body, dict) else None
    if isinstance(body, list):  # A digit may be without quotes.
        body = [str(one) if isinstance(one, int) else one for one in body]
    return body if _are_texts(body) else f"{name} has no PostProcess.character_dict"
