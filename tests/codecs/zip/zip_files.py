"""What the tests of zip files share."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Iterable
from pathlib import Path

from porter.codecs.zip.directory import Member, read_directory
from porter.storage.input_file import InputFile

NOISE = random.Random(0).randbytes(50_000)


MEMBERS = [("a/x", b"hello" * 3), ("a/é", NOISE), ("a/empty", b"")]


DATE = (1980, 1, 1, 0, 0, 0)


def built(
    members: Iterable[tuple[str, bytes]] = MEMBERS, method: int = zipfile.ZIP_STORED
) -> bytes:
    """Return a zip made by the standard library."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name, DATE), data, method)
    return buffer.getvalue()


def directory(data: bytes, folder: Path) -> dict[str, Member]:
    """Read the directory of a zip that is put into `folder`."""
    path = folder / "z.zip"
    path.write_bytes(data)
    return read_directory(InputFile(path))
