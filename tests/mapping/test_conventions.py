"""What a kind looks like is stated for every framework."""

from __future__ import annotations

from porter.mapping.conventions import conventions
from porter.mapping.table import BARE, CANONICAL


def test_every_framework_knows_every_kind() -> None:
    """No kind is declared for one framework and forgotten in another."""
    kinds = {framework: set(one.kinds) for framework, one in conventions().items()}
    assert set(kinds) == {"torch", "paddle", "flax"}
    assert kinds["torch"] == kinds["paddle"] == kinds["flax"]
    for convention in conventions().values():
        for kind, leaves in convention.kinds.items():
            assert set(leaves) == set(conventions()[CANONICAL].kinds[kind]), kind


def test_a_kind_may_be_stored_as_another() -> None:
    """In Paddle the packed projection of attention is a Linear; in Flax it is not."""
    kinds = conventions()["paddle"].kinds
    assert kinds["attention"] == kinds["linear"]
    assert conventions()["flax"].kinds["attention"] != conventions()["flax"].kinds["linear"]


def test_bare_kinds_have_no_convention() -> None:
    """Bare tensors are named whole, the same in every framework."""
    assert not set(BARE) & set(conventions()[CANONICAL].kinds)
