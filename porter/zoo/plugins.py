"""The variants that other packages bring, by entry points of the group `porter.variants`.

The value of an entry point is a folder laid out as porter's own: `variants/FAMILY.toml` and
`skeletons/VARIANT.torch.txt`. The family's table comes by the group `porter.tables`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from porter.errors import TableError, printable

GROUP = "porter.variants"


@cache
def folders() -> tuple[Path, ...]:
    """Return the folders; `TableError` where an entry point names none."""
    from importlib.metadata import entry_points  # Loads a parser of mail.

    found = []
    for entry in entry_points(group=GROUP):
        folder = entry.load()
        if not isinstance(folder, str | Path) or not (Path(folder) / "variants").is_dir():
            name = printable(entry.name)
            raise TableError(
                f"the entry point {name} of {GROUP} does not name a folder with variants/"
            )
        found.append(Path(folder))
    return tuple(found)
