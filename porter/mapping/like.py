"""`like`: a dialect that differs from another in a few rows gives those rows only.

A row replaces the other dialect's row for the same layers. Of a row for several layers
(`{name:fc1,fc2}`) the layers that are not replaced stay; a row for a part of the numbers of
another's is an error, since nothing would say where the rest goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from porter.errors import TableError, listed
from porter.mapping.pattern import Pattern
from porter.mapping.table import Absent, Case, Dialect, Layer, Row

_ANY = 10**9
"""A number that no table lists, in place of any number."""


def prefixed(dialect: Dialect, prefixes: Mapping[str, str], where: str) -> Dialect:
    """Return a dialect whose names begin otherwise; a prefix that no row has is an error."""
    used: set[str] = set()

    def renamed(path: Pattern) -> Pattern:
        for old, new in prefixes.items():
            if path.text.startswith(old):
                used.add(old)
                return Pattern(new + path.text.removeprefix(old))
        return path

    rows = tuple(row._replace(dialect=tuple(map(renamed, row.dialect))) for row in dialect.rows)
    extra = tuple(one._replace(path=renamed(one.path)) for one in dialect.extra)
    unused = set(prefixes) - used
    if unused:
        raise TableError(f"{where} prefix {listed(sorted(unused))}: no name begins so")
    return dialect._replace(rows=rows, extra=extra)


def derived(base: Dialect, own: Dialect, layers: Sequence[Layer], where: str) -> Dialect:
    """Return `own` completed by what `base` has for other layers of this table."""
    claims = [*(path for row in own.rows for path in row.canonical), *(a.path for a in own.absent)]
    kept = [row for row in base.rows if all(_is_known(path, layers) for path in row.canonical)]
    paths = {extra.path for extra in own.extra}
    settings = {one.setting for one in own.behaviour}
    return own._replace(
        rows=(*own.rows, *_unclaimed(kept, claims, where)),
        absent=(*own.absent, *_still_absent(base.absent, claims)),
        extra=(*own.extra, *(e for e in base.extra if e.path not in paths)),
        about=own.about or base.about,
        behaviour=(*own.behaviour, *(b for b in base.behaviour if b.setting not in settings)),
        cases=(*own.cases, *_cases(base.cases, own, layers, where)),
    )


def _cases(
    cases: Iterable[Case], own: Dialect, layers: Sequence[Layer], where: str
) -> Iterator[Case]:
    """Yield a base's cases with the same rows replaced in each."""
    for case in cases:
        yield Case(case.when, derived(case.dialect, own._replace(cases=()), layers, where))


def _is_known(path: Pattern, layers: Sequence[Layer]) -> bool:
    return any(layer.path.overlaps(path) for layer in layers)


def _unclaimed(rows: Iterable[Row], claims: Sequence[Pattern], where: str) -> Iterator[Row]:
    """Yield the rows, or the parts of them, that no claim replaces."""
    for row in rows:
        if not _touched(row, claims):
            yield row
            continue
        for part in row.parts():
            if not _touched(part, claims):
                yield part
            elif not all(any(_covers(c, path) for c in claims) for path in part.canonical):
                raise TableError(
                    f"{where} replaces a part of the row {part}: write rows for all of it"
                )


def _touched(row: Row, claims: Sequence[Pattern]) -> bool:
    return any(path.overlaps(claim) for path in row.canonical for claim in claims)


def _covers(claim: Pattern, path: Pattern) -> bool:
    """Whether every name of `path`, whose placeholders are numbers, is one of `claim`."""
    values = {name: str(_ANY + index) for index, name in enumerate(path.placeholders)}
    return claim.match(path.format(values)) is not None


def _still_absent(absent: Iterable[Absent], claims: Sequence[Pattern]) -> Iterator[Absent]:
    return (one for one in absent if not any(one.path.overlaps(claim) for claim in claims))
