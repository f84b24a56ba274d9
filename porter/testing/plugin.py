"""The pytest plugin: `pytest --porter-report=FILE` gathers the verdicts of `porter.testing`.

With one verdict, in a run in which every test passes, FILE is its report. Else each verdict has
a report, with the test's name before the suffix, and FILE lists them with the tests that failed.
Workers of pytest-xdist send their verdicts to the process that writes the reports.
"""

from __future__ import annotations

import shlex
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from porter.verification.verdict import Verdict

_ATTRIBUTE = "porter_verdicts"
"""Attribute of a test's report with its verdicts; pytest-xdist sends it on from the worker."""


def pytest_addoption(parser: Any) -> None:
    """Add `--porter-report`."""
    parser.getgroup("porter").addoption(
        "--porter-report",
        action="append",
        default=[],
        metavar="FILE",
        help="write the verdicts of porter.testing.assert_equivalent (.md .html .json .xml)",
    )


def pytest_configure(config: Any) -> None:
    """Listen to verdicts where a report is asked for."""
    paths = [Path(path) for path in config.getoption("--porter-report")]
    if not paths:
        return
    from porter.report import check_names

    check_names(paths)
    config.pluginmanager.register(_Listener(paths, _typed(config)), "porter-listener")
    if not hasattr(config, "workerinput"):  # pytest-xdist gives that to its workers
        config.pluginmanager.register(_Reporter(paths), "porter-report")


def _typed(config: Any) -> Sequence[str]:
    """Return pytest's arguments; those of a worker are its controller's."""
    worker = getattr(config, "workerinput", {})
    return [str(word) for word in worker.get("mainargv", [])[1:] or config.invocation_params.args]


class _Listener:
    """Renders the verdicts of each test where it runs, and attaches them to its report."""

    def __init__(self, paths: list[Path], typed: Sequence[str]) -> None:
        from porter import testing

        self._typed = typed
        self._suffixes = sorted({path.suffix.lower() for path in paths})
        self._verdicts: list[Verdict] = []
        self._listen = self._verdicts.append
        testing.listeners.append(self._listen)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, Any, Any]:
        """Attach the verdicts of a phase to its report, as plain values."""
        report = yield
        if report is not None and self._verdicts:
            setattr(report, _ATTRIBUTE, [self._rendered(verdict) for verdict in self._verdicts])
            self._verdicts.clear()
        return report

    def _rendered(self, verdict: Verdict) -> dict[str, Any]:
        from porter.report import render

        verdict = replace(verdict, command=verdict.command or shlex.join(["pytest", *self._typed]))
        texts = {suffix: render(verdict, suffix) for suffix in self._suffixes}
        return {"status": verdict.status, "reason": verdict.reason, "texts": texts}

    def pytest_unconfigure(self) -> None:
        """Listen no longer."""
        from porter import testing

        testing.listeners.remove(self._listen)


class _Reporter:
    """Collects the verdicts of every test, from workers too, and writes the reports."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        self._verdicts: dict[str, list[dict[str, Any]]] = {}
        self._failed: dict[str, str] = {}
        self._written: list[str] = []
        for path in paths:  # A run that is killed must not leave the report of an earlier one.
            path.unlink(missing_ok=True)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Take the verdicts of a test; those of its last try count."""
        if report.when == "setup":
            self._verdicts.pop(report.nodeid, None)
            self._failed.pop(report.nodeid, None)
        self._verdicts.setdefault(report.nodeid, []).extend(getattr(report, _ATTRIBUTE, []))
        self.pytest_collectreport(report)

    def pytest_collectreport(self, report: Any) -> None:
        """Note a test that failed, or a file that could not be collected."""
        if report.failed:
            lines = str(report.longrepr).strip().splitlines()
            self._failed[report.nodeid] = lines[-1] if lines else ""

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Write the reports."""
        from porter.storage.outputs import publish_content

        rows = [
            (test, label, verdict)
            for test, verdicts in self._verdicts.items()
            for label, verdict in zip(self._labels(test, len(verdicts)), verdicts, strict=True)
        ]
        for path in self._paths:
            single = len(rows) == 1 and not exitstatus
            names = [path.with_name(f"{path.stem}.{label}{path.suffix}") for _, label, _ in rows]
            for (_, _, verdict), own in zip(rows, names, strict=True):
                text = verdict["texts"][path.suffix.lower()]
                publish_content(path if single else own, text, force=True)
                self._written.append(f"{verdict['status']}, report in {path if single else own}")
            if not single:
                verdicts = [(test, verdict) for test, _, verdict in rows]
                self._write_run(path, verdicts, [own.name for own in names], int(exitstatus))

    def _labels(self, test: str, count: int) -> list[str]:
        """Return the names of a test's reports: its own, with its file's where two share it."""
        own = test.rpartition("::")[2]
        same = [other for other in self._verdicts if other.rpartition("::")[2] == own]
        name = own if len(same) == 1 else test.removesuffix(own).replace(".py", "") + own
        label = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
        return [f"{label}-{index}" if index > 1 else label for index in range(1, count + 1)]

    def _write_run(
        self, path: Path, verdicts: list[tuple[str, Any]], names: list[str], exitstatus: int
    ) -> None:
        from porter.report.tests import FAILED, Row, TestRun, render
        from porter.storage.outputs import publish_content

        rows = [
            Row(test, verdict["status"], verdict["reason"], name)
            for (test, verdict), name in zip(verdicts, names, strict=True)
        ]
        bad = {row.test for row in rows if row.status != "passed"}
        rows += [Row(t, FAILED, why) for t, why in self._failed.items() if t not in bad]
        reason = "" if verdicts else "no verdict was made"
        reason = f"pytest ended with exit code {exitstatus}" if exitstatus else reason
        run = TestRun(not exitstatus and bool(verdicts), tuple(rows), reason)
        publish_content(path, render(run, path.suffix.lower()), force=True)
        self._written.append(f"{'passed' if run.passed else FAILED}, all verdicts in {path}")

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print where the reports are."""
        for line in self._written:
            terminalreporter.write_line(f"porter: {line}")
