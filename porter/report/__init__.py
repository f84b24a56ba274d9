"""Reports: pure functions of a verdict, written to files by their suffix."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from porter.errors import UsageError, listed
from porter.storage.outputs import publish_content
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


def write_reports(
    verdict: Verdict,
    paths: Iterable[str | os.PathLike[str]],
    *,
    force: bool = False,
    inputs: Iterable[str] = (),
) -> None:
    """Write a verdict to every path, in the format of its suffix.

    Raises as `porter.storage.atomic_output.publish`: a file that exists, or one of the `inputs`,
    is not replaced.
    """
    sources = tuple(inputs)
    for path in paths:
        text = render(verdict, Path(path).suffix.lower())
        publish_content(path, text, force=force, inputs=sources)
