"""The architecture that two checkpoints share, and the naming of each."""

from __future__ import annotations

from porter.errors import UsageError
from porter.planning.endpoint import spelled
from porter.planning.recognise import Match, preferred, recognise, shapes_of
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import Architecture

_FRAMEWORKS = {
    "torch": "torch", "torch-legacy": "torch", "dcp": "torch", "deepspeed": "torch",
    "paddle": "paddle",
}  # fmt: skip
"""The framework that a container is of."""


def dialect_of(variant: Architecture, state: StateDict) -> str | None:
    """Return the naming of a checkpoint of a known variant, None if it is not recognised."""
    matches = [match for match in recognise(shapes_of(state), [variant]) if match.exact]
    return preferred(matches, format_of(state)).dialect if matches else None


def format_of(state: StateDict) -> str:
    """Return the container of a checkpoint, empty if it was not read from a file."""
    return "" if state.origin is None else state.origin.format


def foreign_layout(
    state: StateDict, dialect: str | None, variant: Architecture | None = None
) -> Match | None:
    """Return what a checkpoint is, if it is in the container of a framework and not in its naming.

    A `.pdparams` whose matrices are as PyTorch stores them is a port that was forgotten half way:
    Paddle does not load it, or loads it wrong. A `dialect` that the user names is right.
    """
    framework = _FRAMEWORKS.get(format_of(state))
    if framework is None or dialect is not None:
        return None
    among = None if variant is None else [variant]
    matches = [match for match in recognise(shapes_of(state), among) if match.exact]
    if any(_framework(match) == framework for match in matches):
        return None
    return matches[0] if matches else None


def refuse_foreign_layout(state: StateDict, variant: Architecture) -> None:
    """Raise `UsageError` for a file of one framework in the naming of another.

    Running it as that other one would call a wrong port right.
    """
    match = foreign_layout(state, None, variant)
    if match is not None:
        framework, naming = usual_framework(state), spelled(variant.table.dialect(match.dialect))
        raise UsageError(
            f"is a {framework} file that fits {variant.name} only as {naming}: {framework} would"
            f" not load it; --side {naming} compares it as that",
            state.origin.shown if state.origin is not None else None,
        )


def _framework(match: Match) -> str:
    return match.architecture.table.dialect(match.dialect).convention.framework


def usual_framework(state: StateDict) -> str:
    """Return the framework whose container a checkpoint is in, empty for none."""
    return _FRAMEWORKS.get(format_of(state), "")


def recognised_in_both(
    one: StateDict, other: StateDict, left_dialect: str | None, right_dialect: str | None
) -> tuple[Architecture, str, str] | None:
    """Return the variant that both sides are and their namings; None to compare by names.

    Equal names may hide different layouts: a port to Paddle often keeps the names of PyTorch.
    """
    alike = set(one) == set(other)
    same_layout = {n: t.shape for n, t in one.items()} == {n: t.shape for n, t in other.items()}
    same_format = (format_of(one) == "paddle") == (format_of(other) == "paddle")
    if alike and same_layout and same_format and left_dialect == right_dialect:
        return None
    first = [match for match in recognise(shapes_of(one)) if match.exact]
    second = [match for match in recognise(shapes_of(other)) if match.exact]
    names = {match.architecture.name for match in second}
    both = [match.architecture for match in first if match.architecture.name in names]
    if not both:
        if first and second and not alike:
            names_of = first[0].architecture.name, second[0].architecture.name
            raise UsageError(f"the files are a {names_of[0]} and a {names_of[1]}")
        return None
    variant = both[0]

    def dialect(matches: list[Match], state: StateDict) -> str:
        mine = [match for match in matches if match.architecture.name == variant.name]
        return preferred(mine, format_of(state)).dialect

    left, right = left_dialect or dialect(first, one), right_dialect or dialect(second, other)
    return None if alike and left == right else (variant, left, right)
