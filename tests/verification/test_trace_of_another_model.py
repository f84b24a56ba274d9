"""A trace is bound to the model that it was recorded from, whatever that was called."""

from __future__ import annotations

import pytest

from porter.errors import UsageError
from porter.verification.sides.open import check_parameters
from porter.verification.sides.report import SideReport
from porter.verification.trace import Trace
from porter.zoo.architectures import find


def recorded(parameters: int) -> Trace:
    report = SideReport("torch", "torch", "", "mine.safetensors", "")
    return Trace(report, "vit-tiny-p16-224", 1000, 224, {}, {}, parameters=parameters)


def test_the_trace_of_a_resnet_is_not_that_of_a_vit() -> None:
    """A verdict about one architecture refuses what was recorded from another of other size."""
    with pytest.raises(UsageError, match=r"25,557,032 parameters.*has 5,717,416: it is another"):
        check_parameters(find("vit-tiny-p16-224"), recorded(25_557_032))


def test_another_definition_of_the_model_is_accepted() -> None:
    """A few buffers more or less are no other model, and old traces say nothing."""
    for parameters in (5_717_416, 5_790_000, 0):
        check_parameters(find("vit-tiny-p16-224"), recorded(parameters))
