"""The architecture that two checkpoints share, and the naming of each."""

from __future__ import annotations

from porter.errors import UsageError
from porter.planning.recognise import Match, preferred, recognise, shapes_of
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import Architecture


def dialect_of(variant: Architecture, state: StateDict) -> str | None:
    """Return the naming of a checkpoint of a known variant, None if it is not recognised."""
    matches = [match for match in recognise(shapes_of(state), [variant]) if match.exact]
    return preferred(matches, format_of(state)).dialect if matches else None


def format_of(state: StateDict) -> str:
    """Return the container of a checkpoint, empty if it was not read from a file."""
    return "" if state.origin is None else state.origin.format


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
