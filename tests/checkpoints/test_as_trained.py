"""Checkpoints as training scripts save them, by torch's own wrappers and classes, are converted."""

from __future__ import annotations

import argparse
import functools
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    apply_activation_checkpointing,
)
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import porter
from porter import codecs
from porter.errors import InputError
from porter.tensors.blocks import Array

VARIANT = "deit-tiny-224"
SCRIPT = """
import dataclasses, enum
class Phase(enum.Enum):
    TRAIN = 1
@dataclasses.dataclass
class Config:
    phase: Phase
    rate: float
    names: list
class Meter:
    def __init__(self):
        self.values = [0.5, 0.25]
        self.nested = {"loss": Config(Phase.TRAIN, 0.1, ["a"])}
def warm_up(step):
    return min(step / 5, 1.0)
"""
Model = Any


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded checkpoint, the weights of every model below."""
    path = tmp_path_factory.mktemp("trained") / "source.pth"
    porter.init(VARIANT, path)
    return path


@pytest.fixture
def model(source: Path) -> Model:
    """A model with its weights."""
    return porter.load_model(VARIANT, source)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A training script, whose classes the reader of a checkpoint does not have."""
    module = types.ModuleType("train_script")
    monkeypatch.setitem(sys.modules, "train_script", module)
    exec(SCRIPT, module.__dict__)
    return module


def _arrays(path: Path) -> dict[str, Array]:
    return codecs.read(str(path)).arrays()


def _converted(saved: object, folder: Path, source: Path, **options: Any) -> porter.Conversion:
    """Save an object, convert it, and compare every tensor with the source's."""
    torch.save(saved, folder / "trained.ckpt")
    output = folder / "output.safetensors"
    outcome = porter.convert(
        VARIANT, folder / "trained.ckpt", output, to="torch", verify=False, **options
    )
    found, truth = _arrays(output), _arrays(source)
    assert found.keys() == truth.keys()
    assert all(found[name].tobytes() == truth[name].tobytes() for name in truth)
    return outcome


def _checkpointed(model: Model) -> Model:
    apply_activation_checkpointing(model, check_fn=lambda part: part in list(model.blocks))
    return model


WRAPPERS: dict[str, Callable[[Model], Model]] = {
    "DataParallel": torch.nn.DataParallel,
    "compile": torch.compile,
    "compile of DataParallel": lambda model: torch.compile(torch.nn.DataParallel(model)),
    "AveragedModel": AveragedModel,
    "exponential average": lambda m: AveragedModel(m, multi_avg_fn=get_ema_multi_avg_fn(0.9)),
    "activation checkpointing": _checkpointed,
}


@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS)
def test_wrappers_of_torch_are_looked_through(
    wrapper: Callable[[Model], Model], model: Model, source: Path, tmp_path: Path
) -> None:
    """The state dict of a wrapped model has the tensors of the model."""
    _converted(wrapper(model).state_dict(), tmp_path, source)


def _trained(model: Model) -> tuple[Any, Any, Any]:
    """Return optimizer, schedule and scaler after one step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    model.head.bias.sum().backward()
    optimizer.step()
    schedule.step()
    return optimizer, schedule, torch.amp.GradScaler("cpu")


def test_a_checkpoint_like_lightning_s(model: Model, source: Path, tmp_path: Path) -> None:
    """The model below its attribute, a weighted loss beside it, the states of what trains it."""
    module = torch.nn.Module()
    module.model = torch.compile(model)
    module.criterion = torch.nn.CrossEntropyLoss(weight=torch.ones(1000))
    optimizer, schedule, scaler = _trained(model)
    saved = {
        "epoch": 3, "global_step": 5, "pytorch-lightning_version": "2.5.0",
        "state_dict": module.state_dict(), "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'loss'}": {"best": torch.tensor(0.5)}},
        "optimizer_states": [optimizer.state_dict()], "lr_schedulers": [schedule.state_dict()],
        "MixedPrecision": scaler.state_dict(), "hparams_name": "kwargs",
        "hyper_parameters": argparse.Namespace(rate=0.1, path=Path("data")),
    }  # fmt: skip
    outcome = _converted(saved, tmp_path, source)
    assert any("criterion.weight" in note for note in outcome.notes)


def test_objects_of_a_training_script_are_left_behind_by_name(
    model: Model,
    source: Path,
    script: types.ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Classes, functions and whole objects beside the weights are named, and never imported."""
    optimizer, schedule, scaler = _trained(model)
    saved = {
        "model": model.state_dict(), "optimizer": optimizer, "schedule": schedule,
        "scaler": scaler, "meter": script.Meter(), "phase": script.Phase.TRAIN,
        "config": script.Config(script.Phase.TRAIN, 0.1, []), "rng": torch.get_rng_state(),
        "warm_up": functools.partial(script.warm_up, 3), "loss": torch.nn.CrossEntropyLoss(),
    }  # fmt: skip
    torch.save(saved, tmp_path / "first.ckpt")
    monkeypatch.delitem(sys.modules, "train_script")
    output = tmp_path / "output.safetensors"
    outcome = porter.convert(VARIANT, tmp_path / "first.ckpt", output, to="torch", verify=False)
    assert "train_script" not in sys.modules
    truth = _arrays(source)
    assert all(a.tobytes() == truth[name].tobytes() for name, a in _arrays(output).items())
    skipped = " ".join((*outcome.origin.skipped, *outcome.notes))
    for name in ("optimizer", "schedule", "meter", "phase", "config", "warm_up", "loss"):
        assert name in skipped, skipped


def test_two_models_in_one_file_are_chosen_by_key(
    model: Model, source: Path, tmp_path: Path
) -> None:
    """A model and its average: the other one is named, and can be taken."""
    average = AveragedModel(model)
    with torch.no_grad():
        model.head.bias += 1
    saved = {"net": model.state_dict(), "average": average.state_dict(), "step": torch.tensor(3)}
    torch.save(saved, tmp_path / "both.ckpt")
    outcome = porter.convert(
        VARIANT, tmp_path / "both.ckpt", tmp_path / "x.pth", to="torch", verify=False
    )
    assert (outcome.origin.wrapper, outcome.origin.others) == ("net", ("average",))
    _converted(saved, tmp_path, source, key="average")


@pytest.mark.parametrize("key", ["tensor", "tuple"])
def test_a_dictionary_keyed_by_tensors_is_left_behind(
    key: str, model: Model, source: Path, tmp_path: Path
) -> None:
    """Statistics by parameter do not keep the weights from being read."""
    tensor = model.head.bias.detach()
    counts = {tensor: 1} if key == "tensor" else {(tensor, 0): 1}
    outcome = _converted({"model": model.state_dict(), "counts": counts}, tmp_path, source)
    assert any("counts" in item for item in outcome.origin.skipped)


def test_weights_under_a_tensor_are_refused_by_name(model: Model, tmp_path: Path) -> None:
    """A tensor whose name would be a tensor cannot be named; no address of memory is printed."""
    torch.save({**model.state_dict(), torch.zeros(1): torch.ones(2)}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="under <TorchTensor>, whose last part is not text"):
        codecs.read(str(tmp_path / "a.pth"))
