"""Account for every tensor of a checkpoint and of its variant: used, filled, computed, left out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from porter.errors import MappingError, UsageError, listed, printable
from porter.mapping.fold import fold
from porter.mapping.link import Link, Linked
from porter.planning.sizes import Shapes
from porter.tensors import operations
from porter.tensors.dtypes import DTYPES
from porter.zoo.skeleton import Bound, Dim

_COMPUTED = "computed by the architecture"
DROPPED = "dropped as asked"


@dataclass
class Account:
    """Where each tensor of one checkpoint goes, and which have no place."""

    read: Linked
    source: Shapes
    canonical: Bound
    heads: Collection[str] = ()
    """Tensors of the dialect that have an entry for each class."""
    dropped: dict[str, str] = field(default_factory=dict)
    """Tensors of the source that are left out, each with the reason."""
    filled: dict[str, float] = field(default_factory=dict)
    """Canonical tensors that the source does not have, each with the value written for it."""
    computed: list[str] = field(default_factory=list)
    """Canonical tensors that the architecture computes."""
    copied: dict[str, str] = field(default_factory=dict)
    """Canonical tensors that the source has under another name, with that canonical name."""
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)

    def take(self, fill: Mapping[str, float], path: str | None = None) -> None:
        """Account for everything; `UsageError` where `fill` names an unknown tensor."""
        left = dict(fill)
        for gap in self.read.gaps:
            if gap.constant:
                self.computed.append(gap.canonical)
            elif gap.canonical in left:
                self.filled[gap.canonical] = left.pop(gap.canonical)
            elif gap.same is not None:
                self.copied[gap.canonical] = gap.same
            elif gap.fill is not None:
                self.filled[gap.canonical] = gap.fill
            else:
                self.missing.append(gap.canonical)
        for link in self.read.links:
            self._take_link(link, left)
        for name in self.source:
            if name not in self.read.by_dialect:
                self._leave_out(name)
        if left:
            raise UsageError(f"--fill: unknown tensors of this variant: {listed(left)}", path)

    def _take_link(self, link: Link, left: dict[str, float]) -> None:
        """Take a link's tensors from the source, from `left`, or from the table."""
        absent = [name for name in link.dialect if name not in self.source]
        if link.constant:
            self.computed += link.canonical
            present = [name for name in link.dialect if name in self.source]
            self.dropped.update(dict.fromkeys(present, _COMPUTED))
        elif not absent:
            self.misshapen += self._misfits(link)
        elif all(name in left for name in link.canonical):
            self.filled.update({name: left.pop(name) for name in link.canonical})
        elif link.optional and link.fill is not None and len(absent) == len(link.dialect):
            self.filled.update(dict.fromkeys(link.canonical, link.fill))
        elif link.optional and link.same is not None:
            self.copied[link.canonical[0]] = link.same
        else:
            self.missing += absent

    def _misfits(self, link: Link) -> Iterator[str]:
        """Yield what is wrong with the shapes and dtypes of a link's tensors."""
        shapes = link.dialect_shapes([self.canonical[name][1] for name in link.canonical])
        is_float = DTYPES[self.canonical[link.canonical[0]][0]].is_float
        for name, expected in zip(link.dialect, shapes, strict=True):
            dtype, shape = self.source[name]
            if shape != expected:
                yield f"{printable(name)} is {list(shape)}, not {list(expected)}"
            if DTYPES[dtype].is_float != is_float:
                yield f"{printable(name)} is {dtype}, not {'a float' if is_float else 'whole'}"

    def _leave_out(self, name: str) -> None:
        """Record why a tensor that the table does not link is left out, or that it is unknown."""
        reason = self.read.extra(name)
        if reason is None and self._is_constant(name):
            reason = _COMPUTED
        if reason is None:
            self.unexpected.append(name)
        else:
            self.dropped[name] = reason

    def _is_constant(self, name: str) -> bool:
        """Whether a tensor of the source is a constant that this image size does not have."""
        last = name.rpartition(self.read.dialect.convention.separator)[2]
        constants = (link.dialect[0] for link in self.read.links if link.constant)
        return any(constant.rpartition(".")[2] == last for constant in constants)

    def refusal(self, where: str, path: str | None) -> MappingError | None:
        """Return an error that lists everything that has no place, layers folded; None if all has.

        `where` names the variant and the dialect.
        """
        missing, unexpected = fold(self.missing), fold(self.unexpected)
        parts = []
        if missing:
            parts.append(f"{len(self.missing)} missing: {listed(missing, 12)}")
        if unexpected:
            parts.append(f"{len(self.unexpected)} unexpected: {listed(unexpected, 12)}")
        if self.misshapen:
            parts.append(f"{len(self.misshapen)} misshapen: {'; '.join(self.misshapen[:6])}")
        everything = [
            *(f"missing {name}" for name in missing),
            *(f"unexpected {name}" for name in unexpected),
            *(f"misshapen {line}" for line in self.misshapen),
        ]
        if not everything:
            return None
        parts += self._advice()
        return MappingError(f"does not fit {where}: {'; '.join(parts)}", path, everything)

    def _advice(self) -> Iterator[str]:
        """Yield what to do about missing tensors, where that is known."""
        asked = [name for name in self.missing if self.dropped.get(name) == DROPPED]
        if asked:
            names = listed(fold(asked))
            yield f"--drop left out {names}, which the variant needs; --fill writes a value"
        if self.missing and all(name in self.heads for name in self.missing):
            rest = fold(self.unexpected)
            yield (
                "the classifier is missing: --num-classes 0 writes the model without one,"
                " --adapt --num-classes N draws a new one"
                + (f"; add --drop for {listed(rest)}" if rest else "")
            )


def replaced(
    read: Linked, source: Shapes, fill: Mapping[str, float], path: str | None
) -> dict[str, str]:
    """Return the tensors of the source in whose place `fill` puts a value, each with the reason."""
    reasons: dict[str, str] = {}
    for link in read.links:
        asked = [name for name in link.canonical if name in fill]
        if asked and any(name in source for name in link.dialect):
            if len(asked) < len(link.canonical):
                rest = listed(name for name in link.canonical if name not in fill)
                raise UsageError(f"--fill {asked[0]} needs {rest} too: the source joins them", path)
            present = [name for name in link.dialect if name in source]
            reasons.update(dict.fromkeys(present, "replaced by --fill"))
    return reasons


def headless(read: Linked, source: Shapes, dims: Mapping[str, tuple[Dim, ...]]) -> dict[str, str]:
    """Return the tensors of the source's classifier, each with the reason to leave it out."""
    names = [
        name
        for link in read.links
        if any("classes" in dims.get(part, ()) for part in link.canonical)
        for name in link.dialect
        if name in source
    ]
    return dict.fromkeys(names, "no classes asked for")


def unwritable(write: Linked, canonical: Bound) -> list[str]:
    """Return the links to the target whose parts are missing or whose shapes do not fit.

    The tables of built-in variants are proven to have none; a custom table may.
    """
    problems = []
    for link in write.links:
        missing = [name for name in link.canonical if name not in canonical]
        if missing:
            problems.append(f"{listed(missing)} is missing for {listed(link.dialect)}")
            continue
        shapes = [canonical[name][1] for name in link.canonical]
        try:
            link.dialect_shapes(shapes)
        except operations.ShapeError as error:
            text = ", ".join(str(list(shape)) for shape in shapes)
            problems.append(f"{listed(link.canonical)} {text}: {link.how}: {error}")
    return problems
