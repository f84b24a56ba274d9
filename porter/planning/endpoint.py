"""What `--from` and `--to` say: `torch`, `paddle:paddlevit`, `numpy:google`, `safetensors:hf`."""

from __future__ import annotations

from pathlib import PurePath
from typing import NamedTuple

from porter.errors import UsageError, listed, printable
from porter.mapping.table import CANONICAL, Dialect, Table

SUFFIXES = {
    "torch": (".pth", ".pt", ".bin", ".ckpt", ".tar"),
    "paddle": (".pdparams", ".pdiparams"),
    "safetensors": (".safetensors",),
    "npz": (".npz",),
    "onnx": (".onnx",),
}
"""What files of a container are called; the first is the one that porter writes."""

FORMATS = {
    "torch": "torch",
    "paddle": "paddle",
    "numpy": "npz",
    "safetensors": "safetensors",
    "onnx": "onnx",
}
"""What may stand before the colon, and the container that it is."""
_FRAMEWORKS = {"torch": ("torch",), "paddle": ("paddle",)}
_HEADS = {"flax": "numpy"}
"""The format in which a framework's dialects come, where it is called otherwise."""


class Endpoint(NamedTuple):
    """A naming and the container that it usually comes in."""

    dialect: str
    container: str

    @property
    def suffix(self) -> str:
        """The suffix of files that porter writes, with its dot."""
        return SUFFIXES[self.container][0]


def parse(text: str, table: Table) -> Endpoint:
    """Read `F[:DIALECT]`; `UsageError` lists what the family has.

    `torch` and `paddle` name a framework: its dialects come in its own container. `numpy`,
    `safetensors` and `onnx` name a container, which holds PyTorch's canonical names unless a
    dialect is given (`numpy` holds Google's where the family has them).
    """
    head, _, dialect = text.partition(":")
    if head not in FORMATS:
        import difflib

        near = difflib.get_close_matches(head, FORMATS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"{printable(text)!r} is no format; {hint}use {listed(FORMATS)},"
            " with :DIALECT behind it"
        )
    known = {*table.dialects, *table.aliases}
    if not dialect:
        dialect = {"paddle": "paddle", "numpy": "google"}.get(head, CANONICAL)
        dialect = CANONICAL if head == "numpy" and dialect not in known else dialect
    fitting = sorted(
        name
        for name in known
        if table.dialect(name).convention.framework
        in _FRAMEWORKS.get(head, ("torch", "paddle", "flax"))
    )
    if dialect not in fitting:
        raise UsageError(
            f"{printable(text)!r}: {table.family} has no such dialect;"
            f" it has {listed((f'{head}:{name}' for name in fitting), 20)}"
        )
    if head == "onnx" and dialect != CANONICAL:
        raise UsageError("onnx files carry the canonical names: write `onnx` alone")
    return Endpoint(table.dialect(dialect).name, FORMATS[head])


def spelled(dialect: Dialect) -> str:
    """Return how `--from` and `--to` spell a dialect: `torch`, `paddle:paddlevit`."""
    head = _head(dialect)
    return head if dialect.name == head else f"{head}:{dialect.name}"


def spellings(table: Table) -> list[str]:
    """Return how `--from` and `--to` spell a table's dialects; aliases with ` (= NAME)`."""
    aliases = [
        f"{_head(table.dialects[name])}:{alias} (= {name})" for alias, name in table.aliases.items()
    ]
    return [*map(spelled, table.dialects.values()), *aliases]


def _head(dialect: Dialect) -> str:
    framework = dialect.convention.framework
    return _HEADS.get(framework, framework)


def container_for(path: str, endpoint: Endpoint) -> str:
    """Return the container that an output's suffix asks for; one that contradicts is refused."""
    name = PurePath(path).name.lower()
    for container, suffixes in SUFFIXES.items():
        if name.endswith(suffixes):
            neutral = container in ("safetensors", "npz") and endpoint.container != "onnx"
            if container != endpoint.container and not neutral:
                own = listed(SUFFIXES[endpoint.container])
                raise UsageError(
                    f"its name says {container}, --to says {endpoint.container}; end it in {own}",
                    path,
                )
            return container
    return endpoint.container
