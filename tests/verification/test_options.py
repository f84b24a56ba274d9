"""The options that `verify` and `record` share."""

from __future__ import annotations

import re
from typing import Any, get_type_hints

import pytest

import porter
from porter.commands.verify import record
from porter.errors import UsageError
from porter.verification.options import RunOptions, Runs


def test_type_checkers_know_the_options_that_there_are() -> None:
    """The keyword arguments are the fields of the value, of the same types."""
    assert get_type_hints(RunOptions) == get_type_hints(Runs)


def test_an_option_that_is_not_known_is_refused() -> None:
    """A typo is one line that lists what may be meant, before any file is opened."""
    wrong: dict[str, Any] = {"sedds": 3}
    with pytest.raises(UsageError, match="verify has no option 'sedds'; did you mean seeds"):
        porter.verify("shunted-t", "none.pth", "none.pdparams", **wrong)
    with pytest.raises(UsageError, match="unknown option sedds; use"):
        record("shunted-t", "none.pth", "none.safetensors", **wrong)
    with pytest.raises(UsageError, match="preset 'lax' is not one of default, strict, paddleclas"):
        Runs.of({"preset": "lax"})


def test_seeds_are_numbers_or_how_many() -> None:
    """What is not given is the preset's."""
    assert Runs.of({"seeds": 3}).protocol.seeds == (0, 1, 2)
    assert Runs.of({"seeds": [7, 9], "batch_sizes": [5]}).protocol.seeds == (7, 9)
    assert Runs.of({"seeds": [7, 9], "batch_sizes": [5]}).protocol.batch_sizes == (5,)
    assert Runs.of({"preset": "strict"}).protocol.batch_sizes == (1, 4)


def test_every_option_is_explained() -> None:
    """`help(porter.verify)` has a paragraph for each parameter."""
    text = porter.verify.__doc__ or ""
    names = {*get_type_hints(RunOptions), *get_type_hints(porter.verify)} - {"options", "return"}
    explained = {*re.findall(r"^        (\w+):", text, re.M), *re.findall(r"`(\w+)`", text)}
    assert names <= explained
