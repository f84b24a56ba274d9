"""Reports: pure functions of a verdict, written to files by their suffix."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from porter.errors import SystemFault, UsageError, listed
from porter.verification.verdict import Verdict

SUFFIXES = (".md", ".html", ".json", ".xml")


def render(verdict: Verdict, suffix: str) -> str:
    """Return a verdict as Markdown, one HTML page, JSON or JUnit XML; `UsageError` for others."""
    from porter.report import html, machine, markdown

    renderers: dict[str, Callable[[Verdict], str]] = {
        ".md": markdown.render,
        ".html": html.render,
        ".json": machine.as_json,
        ".xml": machine.as_junit,
    }
    if suffix not in renderers:
        raise UsageError(
            f"unknown kind of report {suffix or '(no suffix)'}; use {listed(SUFFIXES)}"
        )
    return renderers[suffix](verdict)


def check_names(paths: Iterable[str | os.PathLike[str]]) -> None:
    """Raise `UsageError` for a report whose suffix is not one of `SUFFIXES`."""
    for path in paths:
        if Path(path).suffix.lower() not in SUFFIXES:
            raise UsageError(f"is not a report: the name must end in {listed(SUFFIXES)}", path)


def write_reports(verdict: Verdict, paths: Iterable[str | os.PathLike[str]]) -> None:
    """Write a verdict to every path, in the format of its suffix."""
    for path in paths:
        target = Path(path)
        text = render(verdict, target.suffix.lower())
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(target)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise SystemFault(f"cannot be written: {error.strerror}", path) from error
