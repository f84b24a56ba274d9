"""The options that `verify` and `record` share: what both sides run, and where."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypedDict, Unpack

from porter.errors import UsageError, listed, printable
from porter.planning.behaviour import check_choice
from porter.verification.checks import SINGLE
from porter.verification.tolerance import PRESETS, Preset
from porter.zoo.image_size import Size


class RunOptions(TypedDict, total=False):
    """The keyword arguments, for type checkers; `Runs` has their meaning and defaults."""

    num_classes: int | None
    image_size: Size | None
    seeds: int | Sequence[int] | None
    batch_sizes: Sequence[int] | None
    images: str | os.PathLike[str] | None
    inputs: str | os.PathLike[str] | None
    precision: str
    device: str
    python: Mapping[str, str] | None
    preset: str
    per_layer: bool
    timeout: float | None
    behaviour: str


@dataclass(frozen=True, slots=True)
class Runs:
    """What is run on which device; None: as the preset, the checkpoint or the variant has it."""

    num_classes: int | None = None
    image_size: Size | None = None
    """Pixels."""
    seeds: int | Sequence[int] | None = None
    """Seeds of the noise, or how many."""
    batch_sizes: Sequence[int] | None = None
    images: str | os.PathLike[str] | None = None
    """Folder of pictures that are used instead of noise."""
    inputs: str | os.PathLike[str] | None = None
    """`.npz` or `.npy` file of arrays that are used instead of noise."""
    precision: str = SINGLE
    """What the right side computes in, besides float64."""
    device: str = "auto"
    python: Mapping[str, str] | None = None
    """Interpreters of other environments, by framework."""
    preset: str = "default"
    per_layer: bool = False
    timeout: float | None = None
    """Seconds that a given ONNX file may take to load, and to run; None: `PORTER_TIMEOUT`."""
    behaviour: str = "canonical"
    """`dialect`: each checkpoint is run as its dialect's code computes."""

    @classmethod
    def of(cls, options: RunOptions) -> Runs:
        """Return the value of keyword arguments; `UsageError` for an unknown option or preset."""
        known = {field.name for field in fields(cls)}
        unknown = [name for name in options if name not in known]
        if unknown:
            raise UsageError(f"unknown option {listed(unknown)}; use {listed(sorted(known), 20)}")
        runs = cls(**options)
        if runs.preset not in PRESETS:
            name = printable(runs.preset)
            raise UsageError(f"preset {name!r} is not one of {listed(PRESETS)}")
        check_choice(runs.behaviour)
        return runs

    def changed(self, **options: Unpack[RunOptions]) -> Runs:
        """Return the same options but for some."""
        return replace(self, **options)

    @property
    def protocol(self) -> Preset:
        """The preset, with the seeds and batch sizes that were asked for."""
        preset = PRESETS[self.preset]
        count = preset.seeds if self.seeds is None else self.seeds
        seeds = tuple(range(count)) if isinstance(count, int) else tuple(count)
        return replace(
            preset, seeds=seeds, batch_sizes=tuple(self.batch_sizes or preset.batch_sizes)
        )
