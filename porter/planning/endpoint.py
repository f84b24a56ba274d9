"""The values of `--from` and `--to`: `torch`, `paddle:paddlevit`, `numpy:google`.

What reads files is imported when it is needed, so that `porter list` answers without NumPy.
"""

from __future__ import annotations

from typing import NamedTuple

from porter.errors import UsageError, listed, nearest, printable
from porter.mapping.table import CANONICAL, Dialect, Table

FORMATS = {
    "torch": "torch",
    "paddle": "paddle",
    "numpy": "npz",
    "safetensors": "safetensors",
    "onnx": "onnx",
    "hf": "hf",
}
"""The words before the colon, and their containers."""
PROGRAM = "paddle-inference"
"""The word and the container of Paddle's inference models, which porter reads by their graph."""
FOLDER = "hf"
"""The container that is a folder: weights with the configuration of transformers."""
_WORDS = {**FORMATS, PROGRAM: PROGRAM}
GRAPHS = ("onnx", PROGRAM)
"""What has no names but the canonical ones."""
_FRAMEWORKS = {"torch": ("torch",), "paddle": ("paddle",)}
_HEADS = {"flax": "numpy"}
"""The format of a framework's checkpoints, where it has another name."""


class Endpoint(NamedTuple):
    """A naming and the container that it usually comes in."""

    dialect: str
    container: str
    named: str = ""
    """The dialect as it was written: perhaps an alias of it."""

    @property
    def published(self) -> bool:
        """Whether the names of transformers' files were asked for: a folder may hold them, too."""
        return self.container == "torch" and self.named.startswith("hf")

    @property
    def suffix(self) -> str:
        """The suffix of files that porter writes, with its dot."""
        from porter.codecs.detect import SUFFIXES

        return SUFFIXES.get(self.container, ("",))[0]

    @property
    def text(self) -> str:
        """How `--from` and `--to` spell it: `FORMAT:DIALECT`."""
        head = next(word for word, container in _WORDS.items() if container == self.container)
        return head if head in GRAPHS else f"{head}:{self.dialect}"


def parse(text: str, table: Table) -> Endpoint:
    """Read `F[:DIALECT]`; `UsageError` lists what the family has.

    `torch` and `paddle` name a framework, whose dialects are stored in its container; `hf` is a
    folder with the names of transformers. `numpy`, `safetensors` and `onnx` name a container,
    whose names are PyTorch's canonical ones unless a dialect is given (`numpy` means Google's
    names where the family has them).
    """
    head, _, dialect = text.partition(":")
    if head not in _WORDS:
        near = nearest(head, FORMATS)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"unknown format {printable(text)!r}; {hint}use {listed(FORMATS)},"
            " optionally followed by :DIALECT"
        )
    known = {*table.dialects, *table.aliases}
    if not dialect:
        dialect = {"paddle": "paddle", "numpy": "google"}.get(head, CANONICAL)
        dialect = CANONICAL if head == "numpy" and dialect not in known else dialect
    if head == FOLDER and dialect == CANONICAL:
        # transformers 5 reads the names of version 4, not the other way round.
        dialect = "hf-v4" if "hf-v4" in known else "hf"
    fitting = sorted(
        name
        for name in known
        if table.dialect(name).convention.framework
        in _FRAMEWORKS.get(head, ("torch", "paddle", "flax"))
        and (head != FOLDER or name.startswith("hf"))
    )
    if head == FOLDER and not fitting:
        raise UsageError(f"transformers has no {table.family}, or porter not its names")
    if dialect not in fitting:
        raise UsageError(
            f"unknown dialect {printable(text)!r} of {table.family};"
            f" it has {listed((f'{head}:{name}' for name in fitting), 20)}"
        )
    if head in GRAPHS and dialect != CANONICAL:
        text = f"{head} files are read by their graph: write `{head}` without a dialect"
        raise UsageError(text)
    return Endpoint(table.dialect(dialect).name, _WORDS[head], dialect)


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


def purposes(table: Table) -> dict[str, str]:
    """Return {spelling: what the dialect is for}, of those that say so."""
    found = {spelled(dialect): dialect.about for dialect in table.dialects.values()}
    return {name: about for name, about in found.items() if about}


def _head(dialect: Dialect) -> str:
    framework = dialect.convention.framework
    return _HEADS.get(framework, framework)


def container_for(path: str, endpoint: Endpoint) -> str:
    """Return the container that an output's suffix asks for; one that contradicts is refused.

    With `--to torch:hf` a name without suffix is that of a folder, as transformers loads it.
    """
    from porter.codecs.detect import SUFFIXES, container_of

    container = container_of(path)
    if endpoint.container == PROGRAM:
        raise UsageError("porter reads inference models of Paddle and writes none: use --to paddle")
    if container is None and endpoint.published:
        return FOLDER
    if endpoint.container == FOLDER and container is not None:
        raise UsageError("--to hf writes a folder: name one without the suffix of a file", path)
    if container in (None, endpoint.container):
        return endpoint.container
    if container in ("safetensors", "npz") and endpoint.container != "onnx":
        return container  # Both store any dialect.
    raise UsageError(
        f"its suffix means {container}, --to means {endpoint.container};"
        f" use one of {listed(SUFFIXES[endpoint.container])}",
        path,
    )
