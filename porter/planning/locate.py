"""Find the tensors of a variant among the names of a checkpoint.

Training frameworks put a prefix before the names of a model (`model.`, `backbone.`), and wrappers
put a word into them (`_orig_mod`, `_fsdp_wrapped_module`). The words are removed wherever they are
a whole part of a name; the prefix is the one below which the names of a dialect are complete, the
head aside. Several such prefixes, a student's and a teacher's, are an error that lists them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import takewhile
from types import MappingProxyType
from typing import NamedTuple

from porter.errors import UsageError, listed, printable
from porter.mapping.fold import fold
from porter.mapping.link import Linked
from porter.mapping.prefix import WRAPPER_WORDS, student_of, without_words
from porter.planning.plan import link_variant
from porter.tensors.state_dict import Origin, StateDict
from porter.zoo.architectures import Architecture

_MANY = 16
"""Tensors with the same beginning that are named together."""


class Located(NamedTuple):
    """A state dict without prefix and wrapper words, and what was done to find it."""

    state: StateDict
    prefix: str = ""
    left_out: tuple[str, ...] = ()
    """Names outside of the prefix."""
    words: tuple[str, ...] = ()
    """Wrapper words that were removed from names."""
    original: Mapping[str, str] = MappingProxyType({})
    """The name in the file of each tensor whose name was changed."""
    heads: tuple[str, ...] = ()
    """Names of a classifier that is outside of the prefix."""

    def matching(self, patterns: Sequence[str], path: str | None = None) -> list[str]:
        """Return the tensors that patterns (`decoder*`), names or modules name.

        The names are those here, or those in the file; `UsageError` for one that names none.
        """
        found: dict[str, None] = {}
        for pattern in patterns:
            names = [
                name
                for name in self.state
                if matches(name, pattern) or matches(self.original.get(name, name), pattern)
            ]
            if not names and not any(matches(name, pattern) for name in self.left_out):
                text = f"--drop {printable(pattern)} names no tensor of the checkpoint"
                raise UsageError(text, path)
            found.update(dict.fromkeys(names))
        return list(found)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know, a sentence each."""
        notes = []
        if self.words:
            notes.append(f"removed from the names: {', '.join(self.words)}")
        if self.prefix:
            groups = [f"{name} ({n} tensors)" if n > 1 else name for name, n in
                      _grouped(self.left_out)]  # fmt: skip
            left = f"; left out: {listed(groups, 6)}" if groups else ""
            notes.append(f"prefix {printable(self.prefix)!r}{left}")
        if self.heads:
            notes.append(f"the classifier is outside of the prefix: {listed(self.heads)}")
        return tuple(notes)


class Wanted(NamedTuple):
    """The names of one dialect that a checkpoint must have to be it."""

    names: frozenset[str]
    head: frozenset[str]
    """Those of the classifier, which a backbone does not have."""
    separator: str

    @property
    def body(self) -> frozenset[str]:
        """The names without the head's."""
        return self.names - self.head


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern is a tensor's name, its module's, or fits it (`*` and `?`)."""
    module = name.startswith((f"{pattern}.", f"{pattern}/"))
    return name == pattern or module or fnmatchcase(name, pattern)


def wanted(architecture: Architecture, dialects: Iterable[str]) -> list[Wanted]:
    """Return the names that each dialect requires of a variant, if the variant has it."""
    names = [tensor.name for tensor in architecture.skeleton().tensors]
    own = [d for d in dialects if architecture.table.dialect(d).names(names)]
    return [_required(architecture, link_variant(architecture, d)) for d in own]


def head_names(architecture: Architecture) -> list[str]:
    """Return the canonical tensors with an entry for each class."""
    return [t.name for t in architecture.skeleton().tensors if "classes" in t.dims]


def _required(architecture: Architecture, linked: Linked) -> Wanted:
    heads = set(head_names(architecture))
    links = [link for link in linked.links if not (link.constant or link.optional)]
    head = {name for link in links if heads & set(link.canonical) for name in link.dialect}
    names = {name for link in links for name in link.dialect}
    return Wanted(frozenset(names), frozenset(head), linked.dialect.convention.separator)


def locate(state: StateDict, candidates: Sequence[Wanted], prefix: str | None = None) -> Located:
    """Return the state dict with the names that a dialect of `candidates` has.

    `prefix` is taken as it is, with or without its last separator. Raises `UsageError` for one
    that no name begins with, and where several prefixes have complete names below them.
    """
    path = state.origin.shown if state.origin is not None else None
    renamed, words = without_words(state, (name for one in candidates for name in one.names))
    renamed = _with_usual_prefix(renamed, candidates)
    if prefix is not None:
        chosen, below = _under(renamed, prefix, state)
    elif any(one.body <= set(renamed) for one in candidates):
        chosen = ""
    else:
        complete = complete_prefixes(renamed, candidates)
        student = student_of(complete)
        if len(complete) > 1 and not student:
            raise UsageError(
                f"has {len(complete)} sets of these tensors; choose one by"
                f" {' or '.join(f'--prefix {printable(p)}' for p in complete[:6])}",
                path,
            )
        chosen = student or (complete[0] if complete else "")
    if prefix is None:
        below = {n[len(chosen) :]: old for n, old in renamed.items() if n.startswith(chosen)}
    wrapped = _leading_word(below, candidates) if words else ""
    below = {n: old for n, old in below.items() if old.startswith(wrapped)}
    heads = {} if prefix is not None or not chosen else _heads_beside(renamed, below, candidates)
    below.update(heads)
    kept = set(below.values())
    left_out = tuple(name for name in state if name not in kept)
    if list(below) == list(state):
        return Located(state)
    origin = state.origin and _moved(state.origin, chosen, left_out)
    return Located(
        StateDict({name: state[old] for name, old in below.items()}, origin),
        chosen, left_out, words, dict(below), tuple(heads.values()),
    )  # fmt: skip


def complete_prefixes(names: Iterable[str], candidates: Sequence[Wanted]) -> list[str]:
    """Return the prefixes below which a dialect's names are complete, the head aside."""
    names = list(names)
    known = set(names)
    found = []
    for one in candidates:
        for prefix in _possible(names, one):
            if prefix not in found and all(prefix + name in known for name in one.body):
                found.append(prefix)
    return found


def _possible(names: Sequence[str], one: Wanted) -> Iterator[str]:
    """Yield what is before the longest name of a dialect where a checkpoint's name ends in it."""
    anchor = max(one.body, key=len, default="")
    for name in names:
        prefix = name.removesuffix(anchor)
        if name.endswith(anchor) and (not prefix or prefix.endswith((".", "/", one.separator))):
            yield prefix


def _with_usual_prefix(names: dict[str, str], candidates: Sequence[Wanted]) -> dict[str, str]:
    """Return names with the prefix of a dialect that a bare backbone does not have (`vit.`)."""
    known = set(names)
    for one in candidates:
        first = {name.partition(".")[0] + "." for name in one.body}
        usual = first.pop() if len(first) == 1 else ""
        bare = {name.removeprefix(usual) for name in one.body}
        if usual and bare <= known and not one.body <= known:
            return {usual + n if n in bare else n: old for n, old in names.items()}
    return names


def _leading_word(names: Mapping[str, str], candidates: Sequence[Wanted]) -> str:
    """Return the wrapper words that all tensors of the variant begin with in the file.

    What does not begin with them is not the model's: `n_averaged` next to `module.`.
    """
    for one in candidates:
        if one.body <= set(names):
            parts = [names[name].split(".") for name in one.body]
            shared = takewhile(lambda column: len(set(column)) == 1, zip(*parts, strict=False))
            prefix = "".join(f"{column[0]}." for column in shared)
            return "" if any(name.startswith(prefix) for name in one.body) else prefix
    return ""


def below(state: StateDict, prefix: str) -> StateDict:
    """Return the tensors below a prefix, under their names without it and without wrapper words.

    `UsageError` for a prefix that no name begins with.
    """
    renamed, _ = without_words(state)
    chosen, names = _under(renamed, prefix, state)
    kept = set(names.values())
    left_out = [name for name in state if name not in kept]
    origin = state.origin and _moved(state.origin, chosen, left_out)
    return StateDict({name: state[old] for name, old in names.items()}, origin)


def _heads_beside(
    names: Mapping[str, str], below: Mapping[str, str], candidates: Sequence[Wanted]
) -> dict[str, str]:
    """Return the classifier that is next to a backbone below a prefix, under its usual names.

    `{"backbone.blocks.0…": …, "head.weight": …}`, as training on top of a backbone saves it.
    """
    for one in candidates:
        if one.body <= set(below):
            found = {name: old for name, old in names.items() if name in one.head}
            return found if one.head and found.keys() == one.head - set(below) else {}
    return {}


@contextmanager
def option_of(side: str) -> Iterator[None]:
    """Name the option of one side where an error proposes it: `--left-prefix`, `--left`."""
    try:
        yield
    except UsageError as error:
        message = error.message.replace("--prefix ", f"--{side}-prefix ")
        error.message = message.replace("--side ", f"--{side} ")
        raise


def _under(names: Mapping[str, str], prefix: str, state: StateDict) -> tuple[str, dict[str, str]]:
    """Return a prefix that the user names, and {name without it: name in the state}.

    It may be spelled as in the file, with the wrapper words that were removed from `names`.
    """
    origin = state.origin
    stripped = "" if origin is None else origin.prefix
    spellings = [p for p in (prefix, f"{prefix}.", f"{prefix}/") if p.endswith((".", "/"))]
    for begin in spellings:
        if found := {n[len(begin) :]: old for n, old in names.items() if n.startswith(begin)}:
            return begin, found
    for begin in spellings:
        short = "".join(f"{p}." for p in begin[:-1].split(".") if p not in WRAPPER_WORDS)
        in_file = {n: old for n, old in names.items() if (stripped + old).startswith(begin)}
        if found := {n[len(short) :]: old for n, old in in_file.items() if n.startswith(short)}:
            return short, found
    first = {name.partition(".")[0] + "." for name in names if "." in name}
    raise UsageError(
        f"no names begin with {printable(prefix)!r}; there are {listed(sorted(first), 8)}",
        None if origin is None else origin.shown,
    )


def _grouped(names: Sequence[str]) -> list[tuple[str, int]]:
    """Return names, and (beginning, number) of the many that another model has: `Teacher.*`."""
    count = Counter(name.partition(".")[0] for name in names)
    many = {first for first, number in count.items() if number >= _MANY}
    rows = [(f"{printable(first)}.*", count[first]) for first in count if first in many]
    few = fold([name for name in names if name.partition(".")[0] not in many])
    return [*rows, *((printable(name), 1) for name in few)]


def _moved(origin: Origin, prefix: str, left_out: Sequence[str]) -> Origin:
    skipped = [
        f"{name}: {f'{n} tensors ' if n > 1 else ''}outside of the prefix"
        for name, n in _grouped(left_out)
    ]
    return replace(origin, prefix=origin.prefix + prefix, skipped=(*origin.skipped, *skipped))
