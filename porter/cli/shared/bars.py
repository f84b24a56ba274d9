"""Progress on a terminal: a bar for work measured in bytes, a spinner for other steps."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from porter.errors import visible


class Bars:
    """Shows progress until the block ends; then its lines are removed."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bytes: Progress | None = None
        self._step: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def move(self, what: str, done: int, total: int) -> None:
        """Show a step's bytes; without done and total, only its name (`storage.progress`)."""
        what = visible(what)
        if not done and not total:
            self._begin(what)
            return
        if self._bytes is None:
            self._end()
            self._bytes = Progress(
                TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(),
                TimeRemainingColumn(), console=self._console, transient=True,
            )  # fmt: skip
            self._bytes.start()
        if what not in self._tasks:
            self._tasks[what] = self._bytes.add_task(what, total=total or None)
        self._bytes.update(self._tasks[what], completed=done, total=total or None)

    def _begin(self, step: str) -> None:
        if self._step is None:
            self._end()
            self._step = Progress(
                SpinnerColumn(), TextColumn("{task.description}", markup=False),
                TimeElapsedColumn(), console=self._console, transient=True,
            )  # fmt: skip
            self._step.start()
            self._tasks[""] = self._step.add_task("")
        self._step.update(self._tasks[""], description=step)

    def _end(self) -> None:
        """Remove what is shown: bytes and steps follow each other."""
        for shown in (self._bytes, self._step):
            if shown is not None:
                shown.stop()
        self._bytes = self._step = None
        self._tasks.clear()
