"""Labelled pictures: a folder for each class, or a file that lists pictures and classes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from porter.errors import InputError, printable
from porter.storage.input_file import read_small
from porter.verification.inputs import SUFFIXES

_LARGEST = 1 << 28
"""Bytes of a list."""


class Labelled(NamedTuple):
    """A picture and the number of its class."""

    file: Path
    label: int


def labelled(
    data: str | os.PathLike[str], num_classes: int, most: int | None = None
) -> list[Labelled]:
    """Return the pictures of a folder or of a list, at most so many, evenly spaced.

    A folder has one folder for each class: in alphabetical order (as in torchvision's image
    folders) where there are as many as classes, or named by the numbers of the classes. A list has
    a line for each picture, its path from the list's folder and its class, `n01440764/1.JPEG 0`.
    Raises `InputError` where a class cannot be told, or is not one of the model's.
    """
    path = Path(data)
    if path.is_dir():
        found = list(_of_folder(path, num_classes))
    elif path.is_file():
        found = list(_of_list(path))
    else:
        raise InputError("is neither a folder of pictures by class nor a list", data)
    if not found:
        raise InputError("has no picture (" + " ".join(SUFFIXES) + ")", data)
    wrong = next((one for one in found if not 0 <= one.label < num_classes), None)
    if wrong is not None:
        raise InputError(
            f"gives {printable(wrong.file.name)} the class {wrong.label}; the model has"
            f" {num_classes} classes, numbered from 0", data,
        )  # fmt: skip
    if most is None or len(found) <= most:
        return found
    return [found[index * len(found) // most] for index in range(most)]


def _of_folder(path: Path, num_classes: int) -> Iterator[Labelled]:
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir())
    numbered = bool(folders) and all(folder.name.isdecimal() for folder in folders)
    if not numbered and len(folders) != num_classes:
        raise InputError(
            f"has {len(folders)} folders for {num_classes} classes: name them by the numbers of"
            " their classes, or give a list (PATH CLASS in each line)", path,
        )  # fmt: skip
    for index, folder in enumerate(folders):
        label = int(folder.name) if numbered else index
        for file in sorted(folder.rglob("*")):
            if file.suffix.lower() in SUFFIXES:
                yield Labelled(file, label)


def _of_list(path: Path) -> Iterator[Labelled]:
    lines = read_small(path, _LARGEST).decode("utf-8", "surrogateescape").splitlines()
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, label = _cut(text)
        if not label.isdecimal():
            raise InputError(f"line {number} is not PATH CLASS: {printable(text, 80)}", path)
        file = path.parent / name
        if not file.is_file():
            raise InputError(f"line {number} names {printable(name)}, which is not a file", path)
        yield Labelled(file, int(label))


def _cut(text: str) -> tuple[str, str]:
    """Cut a line at the last tab, comma or space."""
    for mark in "\t, ":
        if mark in text:
            name, _, label = text.rpartition(mark)
            return name.strip(), label.strip()
    return text, ""
