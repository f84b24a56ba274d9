"""What the runners of both frameworks share: outputs of any form, by name."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from porter.frameworks.runner import parts

ONE, TWO, THREE = (torch.full((2,), float(n)) for n in (1, 2, 3))


@dataclass
class Output:
    """As models return that name their outputs."""

    scores: Any
    states: Any = None


class ModelOutput(OrderedDict[str, Any]):
    """As transformers has: a dictionary that is a dataclass as well."""


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (ONE, [""]),
        ((ONE,), [""]),
        ((ONE, (14, 14)), [""]),
        ([ONE, None, TWO], ["@0", "@1"]),
        ({"logits": ONE}, [""]),
        ({"logits": ONE, "loss": None, "states": (TWO, THREE)},
         ["@logits", "@states.0", "@states.1"]),
        (ModelOutput(logits=ONE, hidden=TWO), ["@logits", "@hidden"]),
        (Output(ONE, TWO), ["@scores", "@states"]),
        (Output(ONE), [""]),
        ({"a/b": ONE, "c@d": TWO}, ["@a.b", "@c.d"]),
        (None, []),
        ("text", []),
    ],
)  # fmt: skip
def test_outputs_are_named_by_place_or_key(value: Any, names: list[str]) -> None:
    """One tensor has no name; the names have none of the marks that traces use."""
    found = parts(value, lambda tensor: tensor.numpy())
    assert [name for name, _ in found] == names
    assert [array[0] for _, array in found] == list(range(1, len(names) + 1))
