"""What a dialect's code computes otherwise than the canonical model, for one checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from porter.checkpoints.beside import CONFIG, beside
from porter.errors import UsageError, listed, printable
from porter.mapping.table import Behaviour
from porter.tensors.state_dict import Origin
from porter.zoo.architectures import Architecture

CHOICES = ("canonical", "dialect")
Setting = bool | int | float


def check_choice(behaviour: str) -> None:
    """Raise `UsageError` for a behaviour that is neither `canonical` nor `dialect`."""
    if behaviour not in CHOICES:
        raise UsageError(f"unknown behaviour {printable(behaviour)!r}; use {listed(CHOICES)}")


def behaviour_of(
    architecture: Architecture, dialect: str, origin: Origin | None = None
) -> tuple[Behaviour, ...]:
    """Return the settings in which a dialect's own model differs from the canonical one.

    A value that `config.json` next to the checkpoint states replaces that of the table.
    """
    names = [tensor.name for tensor in architecture.skeleton().tensors]
    naming = architecture.table.dialect(dialect)
    if not naming.names(names):  # a variant without this naming
        return ()
    found = []
    for row in naming.of(names).behaviour:
        stated = beside(origin, CONFIG).get(row.config) if row.config else None
        if isinstance(stated, int | float) and not isinstance(stated, bool):
            row = row._replace(value=float(stated))
        canonical = architecture.config.get(row.setting, row.canonical)
        if row.value != canonical:
            found.append(row._replace(canonical=canonical))
    return tuple(found)


def settings(rows: Iterable[Behaviour]) -> dict[str, Setting]:
    """Return keyword arguments of the reference models."""
    return {row.setting: row.value for row in rows}


def computing(architecture: Architecture, rows: Sequence[Behaviour]) -> Architecture:
    """Return the variant with such settings.

    Raises `UsageError` where its graph is that of a published class, which has no settings.
    """
    if rows and not architecture.module:
        raise UsageError(
            f"--behaviour dialect: the graph of {architecture.name} is that of transformers' class"
        )
    return replace(architecture, config={**architecture.config, **settings(rows)})


def crossed(
    source: tuple[str, tuple[Behaviour, ...]], target: tuple[str, tuple[Behaviour, ...]]
) -> Iterator[str]:
    """Yield a line for each setting that only one of two dialects has, each (name, settings)."""
    for (name, rows), (_, others) in ((source, target), (target, source)):
        shared = settings(others)
        for row in rows:
            if shared.get(row.setting) != row.value:
                yield (
                    f"{name} {row.about}: the outputs of its model differ by about"
                    f" {short(row.size)} from those of the canonical one ({row.seen})"
                )


def short(size: float) -> str:
    """Return a size with one digit: `4e-2`."""
    digit, _, exponent = f"{size:.0e}".partition("e")
    return digit if int(exponent) == 0 else f"{digit}e{int(exponent)}"
