"""The pytest plugin: `pytest --porter-report=FILE` gathers the verdicts of `porter.testing`.

With one verdict FILE is its report; with several, the test's name goes before the suffix.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from porter.verification.verdict import Verdict


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
    if config.getoption("--porter-report"):
        config.pluginmanager.register(
            _Reporter(config.getoption("--porter-report")), "porter-report"
        )


class _Reporter:
    """Collects every verdict with its test, and writes the reports at the end."""

    def __init__(self, paths: list[str]) -> None:
        from porter import testing
        from porter.report import check_names

        check_names(paths)
        self._paths = [Path(path) for path in paths]
        self._verdicts: list[tuple[str, Verdict]] = []
        self._test = ""
        testing.listeners.append(self._listen)

    def _listen(self, verdict: Verdict) -> None:
        self._verdicts.append((self._test, verdict))

    def pytest_runtest_setup(self, item: Any) -> None:
        self._test = item.name

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        from porter.report import write_reports

        names: dict[str, int] = {}
        for test, verdict in self._verdicts:
            names[test] = names.get(test, 0) + 1
            label = "".join(c if c.isalnum() or c in "-_" else "_" for c in test)
            label += f"-{names[test]}" if names[test] > 1 else ""
            for path in self._paths:
                single = len(self._verdicts) == 1
                target = path if single else path.with_name(f"{path.stem}.{label}{path.suffix}")
                write_reports(verdict, [target], force=True)
                terminalreporter.write_line(f"porter: {verdict.status}, report in {target}")

    def pytest_unconfigure(self) -> None:
        from porter import testing

        testing.listeners.remove(self._listen)
