"""The golden cases as checkpoints: files such as the frameworks of their authors write."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from porter.planning.behaviour import behaviour_of, settings
from porter.zoo.architectures import find

HERE = Path(__file__).resolve().parent
SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("pp-lcnet", "paddlex"): {"gate_slope": 0.1666667},
    ("pp-ocrv5-mobile-det", "paddlex"): {"gate_slope": 0.1666667},
    ("pp-ocrv5-mobile-rec", "paddlex"): {"gate_slope": 0.1666667},
}
"""What an alias's own model computes otherwise, as options of the reference models."""
_SUFFIX = {"torch": ".pth", "paddle": ".pdparams", "numpy": ".npz"}


def _recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_recipe", HERE / "recipe.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


recipe = _recipe()


@dataclass(frozen=True)
class Case:
    """One implementation written elsewhere: its tensors and, where known, its logits."""

    name: str

    @property
    def manifest(self) -> dict[str, Any]:
        """Names, dtypes, shapes, seed and input shape."""
        return json.loads((HERE / f"{self.name}.json").read_text())

    @property
    def variant(self) -> str:
        """The variant that porter calls it."""
        return self.name.partition(".")[0]

    @property
    def framework(self) -> str:
        """torch, paddle or numpy."""
        return str(self.manifest["framework"])

    @property
    def side(self) -> str:
        """What `--from` says for it."""
        dialect = self.name.partition(".")[2].partition("-")[0]
        own = dialect in ("official", "seed") or (
            dialect == "timm" and self.variant.startswith(("vit-", "deit-"))
        )
        if dialect == "hf" and find(self.variant).family in ("vit", "deit", "swin"):
            dialect = "hf-v5"  # Made by transformers 5; `hf` reads them too.
        return self.framework if own else f"{self.framework}:{dialect}"

    @property
    def settings(self) -> dict[str, Any]:
        """Options with which the reference model computes what the case's own code does."""
        variant = find(self.variant)
        if (variant.family, self.name.partition(".")[2]) in SETTINGS:
            return SETTINGS[variant.family, self.name.partition(".")[2]]
        dialect = self.side.partition(":")[2] or self.framework
        if self.name.endswith(".google") or dialect == "numpy":  # read by timm's code
            return {}
        return settings(behaviour_of(variant, dialect))

    @property
    def has_logits(self) -> bool:
        """Whether the float64 logits are here."""
        return (HERE / f"{self.name}.npy").exists()

    @property
    def logits(self) -> np.ndarray:
        """The float64 logits, (N, classes), or every so many of them as `kept` takes them."""
        return np.load(HERE / f"{self.name}.npy")

    def kept(self, logits: np.ndarray) -> np.ndarray:
        """Return of whole logits those that `logits` has: all, or every `step`-th."""
        if "step" not in self.manifest:
            return logits
        assert list(logits.shape) == self.manifest["shape"]
        return logits.reshape(-1)[:: self.manifest["step"]]

    def weights(self) -> dict[str, np.ndarray]:
        """Return the seeded weights, what the architecture computes left out."""
        derived = set(self.manifest.get("derived", ()))
        return {n: a for n, a in recipe.state_dict(self.manifest).items() if n not in derived}

    def image(self) -> np.ndarray:
        """Return the input batch, (N, 3, H, W)."""
        return recipe.image(self.manifest)

    def save(self, folder: Path) -> Path:
        """Write the checkpoint with the framework's own library."""
        path = folder / f"{self.name}{_SUFFIX[self.framework]}"
        weights = self.weights()
        if self.framework == "torch":
            import torch

            torch.save({n: torch.from_numpy(np.array(a)) for n, a in weights.items()}, path)
        elif self.framework == "paddle":
            import paddle

            paddle.save({n: paddle.to_tensor(a) for n, a in weights.items()}, str(path))
        else:
            np.savez(path, **weights)
        return path


ALL = [Case(path.stem) for path in sorted(HERE.glob("*.json"))]
WITH_LOGITS = [case for case in ALL if case.has_logits]
