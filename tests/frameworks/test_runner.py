"""What the runners of both frameworks share: outputs by name, and their settings."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
import pytest
import torch

from porter.frameworks.models import build
from porter.frameworks.runner import RUNNERS, Watch, parts, runner
from porter.zoo.architectures import find

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


SMALL = "pp-lcnet-x0_25-textline-ori"
VIEWS = "FLAGS_use_stride_kernel"


def settings() -> tuple[bool, bool]:
    """Return whether torch fills memory, and whether a transpose in Paddle is a view."""
    fills = torch.utils.deterministic.fill_uninitialized_memory
    return bool(fills), bool(paddle.get_flags(VIEWS)[VIEWS])


@pytest.mark.parametrize("framework", RUNNERS)
def test_only_our_own_models_leave_checks_of_memory_out(framework: str) -> None:
    """During their forward passes; the same model of a user runs with the framework's settings."""
    architecture = find(SMALL)
    run = runner(framework)
    run.build(architecture, 2, 32, ())
    inputs = np.ones((1, 3, 32, 32), np.float32)
    seen: list[tuple[bool, bool]] = []
    model: Any = run._model  # type: ignore[attr-defined]
    hook = "register_forward_hook" if framework == "torch" else "register_forward_post_hook"
    getattr(model, hook)(lambda *_: seen.append(settings()))
    before = settings()
    ours = run.forward(inputs, Watch(None))
    run.adopt(model)
    theirs = run.forward(inputs, Watch(None))
    assert before == settings() == seen[1] == (True, True)
    assert seen[0] == (framework != "torch", framework != "paddle")
    assert ours.layers.keys() == theirs.layers.keys()
    for name, array in {**ours.outputs, **ours.layers}.items():
        assert array.tobytes() == {**theirs.outputs, **theirs.layers}[name].tobytes(), name


def test_a_blank_model_has_the_tables_that_its_class_computes() -> None:
    """Those that no checkpoint has, and without torch's compiler, which takes a second to load."""
    script = (
        "import sys, torch\n"
        "from porter.frameworks.models import build\n"
        "from porter.zoo.architectures import find\n"
        "build(find('vit-tiny-relu-224'), 'torch', blank=True)\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-P", "-c", script], check=True)

    class Model(torch.nn.Module):
        def __init__(self, **_: Any) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(2, 2)
            self.register_buffer("table", torch.arange(4) - 1, persistent=False)
            self.register_buffer("stored", torch.arange(4) - 1)

    architecture = find("deit-tiny-224")
    module = importlib.import_module(f"porter.reference_models.torch.{architecture.module}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, architecture.model, Model)
        model = build(architecture, "torch", blank=True)
    assert model.table.tolist() == [-1, 0, 1, 2]
    assert model.stored.tolist() == [0, 0, 0, 0]
    assert model.linear.weight.isnan().all()
