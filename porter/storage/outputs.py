"""All outputs of a run, looked at together before the first is written; and outputs of text."""

from __future__ import annotations

import os
from collections.abc import Iterable

from porter.errors import UsageError
from porter.storage.atomic_output import Input, named, publish, resolve
from porter.storage.options import WriteOptions

Path = str | os.PathLike[str]


def check_outputs(
    outputs: Iterable[Path], inputs: Iterable[Input], force: bool, parts: Iterable[Path] = ()
) -> None:
    """Raise `UsageError` for an output that is an input, another output or a file that must stay.

    `parts` are files that are written with one of the outputs, such as its record: whether they
    may be replaced is decided when they are written. Inputs that are not files are passed over.
    """
    files = [source for source in inputs if os.path.exists(named(source))]
    taken: dict[object, str] = {os.path.realpath(part): os.fspath(part) for part in parts}
    for output in outputs:
        target = resolve(output, files, force)
        keys: list[object] = [os.path.realpath(target.path)]
        if target.old is not None:  # Two hard links are one file under two paths.
            keys.append((target.old.st_dev, target.old.st_ino))
        for key in keys:
            if key in taken:
                raise UsageError(f"is also {taken[key]} of this run; name another output", output)
        taken |= dict.fromkeys(keys, os.fspath(output))


def publish_content(
    path: Path, content: str | bytes, *, force: bool = False, inputs: Iterable[Input] = ()
) -> None:
    """Write a file that appears complete, or not at all; text in UTF-8. Raises as `publish`."""
    files = [source for source in inputs if os.path.exists(named(source))]
    data = content.encode() if isinstance(content, str) else content
    publish(path, [data], WriteOptions(force=force, digests=False), inputs=files)
