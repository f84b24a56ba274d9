"""The thing to convert, and where it is read from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from porter import codecs
from porter.errors import UsageError
from porter.mapping.reader import load as load_table
from porter.mapping.table import CANONICAL, Table
from porter.planning import custom_table, endpoint
from porter.planning.endpoint import Endpoint
from porter.planning.recognise import shapes_of
from porter.remote import fetch
from porter.storage.progress import Progress
from porter.tensors.state_dict import Origin, StateDict
from porter.zoo.architectures import Architecture, find
from porter.zoo.image_size import Size

if TYPE_CHECKING:
    from porter.commands.live.models import Models


class Subject(NamedTuple):
    """The thing to convert: a variant that porter knows, or a custom table."""

    stem: str
    table: Table
    variant: Architecture | None

    @classmethod
    def of(cls, name: str) -> Subject:
        """Return the subject of an ARCH argument."""
        if custom_table.is_table(name):
            return cls(Path(name).stem, load_table(Path(name)), None)
        variant = find(name)
        return cls(variant.name, variant.table, variant)

    def refuse(self, options: Mapping[str, object]) -> None:
        """Raise `UsageError` for options that only a variant of porter has."""
        for name, value in options.items():
            if self.variant is None and value:
                raise UsageError(
                    f"{name} needs a variant that porter knows, not a custom table", self.stem
                )

    def models(
        self, sides: tuple[Endpoint, Endpoint], left: str | None, right: str | None,
        inputs: str | os.PathLike[str] | None, python: Mapping[str, str] | None,
    ) -> Models | None:  # fmt: skip
        """Return the two models of a custom table, None where neither it nor the user has any."""
        if self.variant is not None:
            if left is not None or right is not None or inputs is not None:
                raise UsageError(
                    "--left-model, --right-model and --inputs go with a mapping table: porter has"
                    " the models of its variants", self.stem,
                )  # fmt: skip
            return None
        if not self.table.models and left is None and right is None and inputs is None:
            return None  # The modules that run models are not loaded.
        from porter.commands.live.models import models_of

        dialects = (sides[0].dialect, sides[1].dialect)
        return models_of(self.table, dialects, left, right, inputs, python)

    def notes(self, left: Endpoint, right: Endpoint) -> tuple[str, ...]:
        """Return what the user should know about a custom table."""
        if self.variant is not None:
            return ()
        return tuple(custom_table.unwritten(self.table, left.dialect, right.dialect))

    def architecture(self, state: StateDict, dialect: str) -> Architecture:
        """Return the variant; that of a custom table follows from the checkpoint."""
        if self.variant is not None:
            return self.variant
        return custom_table.custom_architecture(self.table, shapes_of(state), dialect)


def read(
    subject: Subject,
    left: Endpoint,
    source: str | os.PathLike[str],
    key: str | None,
    fold_batchnorm: bool,
    timeout: float | None,
    progress: Progress | None,
) -> StateDict:
    """Return the source's state dict; that of a graph is recovered from what it computes."""
    if left.container not in endpoint.GRAPHS or subject.variant is None:
        state = fetch.read(source, key=key, progress=progress)
        is_graph = state.origin is not None and state.origin.format in endpoint.GRAPHS
        if not is_graph or subject.variant is None or left.dialect != CANONICAL:
            if fold_batchnorm:
                raise UsageError("--fold-batchnorm is for foreign ONNX models only", left.text)
            return state
    from porter.onnx.recover.read import read

    return read(
        subject.variant, source, fold_batchnorm=fold_batchnorm, timeout=timeout, progress=progress
    )


def seeded(
    subject: Subject,
    left: Endpoint,
    path: str | os.PathLike[str],
    seed: int,
    num_classes: int | None,
    image_size: Size | None,
    dry_run: bool,
) -> StateDict:
    """Return the seeded checkpoint that replaces an INPUT, written unless on a dry run."""
    from porter.commands.init import init, seeded_state

    variant, path = subject.variant, os.fspath(path)
    if variant is None:
        raise UsageError("a custom table needs an INPUT: porter cannot make its weights")
    if not dry_run:
        init(
            variant.name, path, to=left.text, seed=seed, num_classes=num_classes,
            image_size=image_size,
        )  # fmt: skip
        return codecs.read(path)
    state = seeded_state(
        variant, left.dialect, seed=seed, num_classes=num_classes, image_size=image_size
    )
    return StateDict(state, Origin(path, left.container))
