"""A live model as a side of a comparison: it is asked in the calling process."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from porter import __version__
from porter.errors import UsageError
from porter.frameworks.runner import Naming, Runner, as_it_is
from porter.frameworks.runner import runner as runner_of
from porter.frameworks.session import Session, commands
from porter.planning.plan import Plan
from porter.planning.sizes import Shapes
from porter.tensors.dtypes import DTYPES
from porter.tensors.state_dict import StateDict
from porter.verification.sides.prepare import Prepared
from porter.verification.sides.processes import Model
from porter.verification.sides.report import SideReport
from porter.verification.sides.side import Can


class _Inline:
    """A worker that is no process: requests are carried out by the caller."""

    def __init__(self, session: Session) -> None:
        self._commands = commands(session)

    def request(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Carry out a request."""
        return self._commands[command](**arguments)


class Live(Model):
    """A model of the caller; its weights are those that it has."""

    def __init__(
        self, session: Session, report: SideReport, folder: Path, state: StateDict
    ) -> None:
        self.report, self.state = report, state
        self.architecture, self.num_classes, self.image_size = "", 0, 0
        self.can = Can.RUN | Can.FLOAT64 | Can.LAYERS | Can.MODULES
        self.worker: Any = _Inline(session)
        self.folder = folder

    def planned(self, plan: Plan, *, compared: bool) -> None:
        """Give the weights their places in a table; they are `compared` if it names them."""
        self._prepared = Prepared(self.report, plan.architecture, plan, self.state, {})
        if compared:
            self.can |= Can.WEIGHTS


@contextmanager
def live(
    model: Any, folder: Path, *, device: str = "cpu", name: Naming = as_it_is
) -> Iterator[Live]:
    """Lend a model to a side, until the context ends; it comes back as it was.

    `name` gives the canonical path of a module for its own; files are exchanged in `folder`.
    """
    framework = framework_of(model)
    runner = runner_of(framework)
    session = Session(runner)
    place = runner.place(device)
    folder.mkdir(parents=True, exist_ok=True)
    with session.adopt(model, name):
        floats = {dtype for dtype in session.types().values() if DTYPES[dtype].is_float}
        report = SideReport(
            label=f"{framework} (custom model)", framework=framework, dialect="", file="",
            format="", weights=tuple(sorted(floats)), device=place, versions=_versions(runner),
        )  # fmt: skip
        yield Live(session, report, folder, StateDict(dict(session.weights)))


def framework_of(model: Any) -> str:
    """Return `torch` or `paddle`, by the classes that a model inherits from."""
    for kind in type(model).__mro__:
        root = kind.__module__.partition(".")[0]
        if root in ("torch", "paddle"):
            return root
    raise UsageError(f"{type(model).__name__} is neither an nn.Module of torch nor of paddle")


def shapes_of_model(model: Any) -> Shapes:
    """Return {name: (dtype name, shape)} of a model's state dict."""
    return {
        name: (str(value.dtype).rpartition(".")[2].lower(), tuple(value.shape))
        for name, value in model.state_dict().items()
    }


def is_model(value: Any) -> bool:
    """Whether a value is a live model and not a path, a name or a state dict."""
    return not isinstance(value, Mapping) and hasattr(value, "state_dict")


def _versions(runner: Runner) -> dict[str, str]:
    return {
        "porter": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        **runner.environment(),
    }
