"""`.pdopt`, as Paddle's optimizers write it: named as what it is, not taken for weights."""

from __future__ import annotations

from pathlib import Path

import paddle
import pytest

from porter import codecs
from porter.codecs.paddle.reading import OPTIMIZER
from porter.errors import InputError
from porter.planning.fit import fit
from porter.zoo.architectures import find

OPTIMIZERS = ("Adam", "AdamW", "Momentum", "Adamax", "RMSProp", "Adagrad", "Adadelta", "Lamb")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_of_an_optimizer_is_named_as_such(name: str, tmp_path: Path) -> None:
    """Its accumulators are no weights: a conversion refuses them by what they are."""
    layer = paddle.nn.Linear(3, 4)
    optimizer = getattr(paddle.optimizer, name)(0.1, parameters=layer.parameters())
    layer(paddle.ones([2, 3])).sum().backward()
    optimizer.step()
    path = tmp_path / "a.pdopt"
    paddle.save(optimizer.state_dict(), str(path))
    state = codecs.read(str(path))
    assert state.origin is not None
    assert OPTIMIZER in state.origin.notes
    with pytest.raises(InputError, match="is the state of an optimizer, without weights"):
        fit(find("deit-tiny-224"), state, "paddle", "torch")


def test_weights_are_not_taken_for_an_optimizer(tmp_path: Path) -> None:
    """The same layer's weights have no such note."""
    path = tmp_path / "a.pdparams"
    paddle.save(paddle.nn.Linear(3, 4).state_dict(), str(path))
    origin = codecs.read(str(path)).origin
    assert origin is not None
    assert OPTIMIZER not in origin.notes
