"""Results as Markdown, and into the page of the documentation that shows them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import goals

_MARK = re.compile(r"(<!-- results -->\n).*?(<!-- end of results -->)", re.DOTALL)


def table(group: dict[str, Any]) -> str:
    """Return one group as a Markdown table; ratios are to its first row."""
    title, load, rounds = group["title"], group["load"], group["rounds"]
    lines = [
        f"### {title[:1].upper()}{title[1:]}",
        "",
        f"{_where(group)}{rounds} round{'s' if rounds > 1 else ''}; load average of the machine,"
        f" this run included: {load[0]:.1f} to {load[1]:.1f}.",
        "",
        "| | wall, s: median (fastest to slowest) | × of medians | × of fastest | processor, s"
        " | peak anonymous memory |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *map(_line, group["rows"]), ""])


def _where(group: dict[str, Any]) -> str:
    """Return the machine and the day, where a group says its own."""
    if "machine" not in group:
        return ""
    size = f"{group['bytes'] / 1e9:g} GB; " if "bytes" in group else ""
    return f"{group['machine']}, {group['date']}; {size}"


def _line(row: dict[str, Any]) -> str:
    if "failed" in row:
        return f"| {row['name']} | failed: {row['failed'][:80]} | | | | |"
    cells = [
        row["name"],
        f"{row['wall']:.2f} ({row['walls'][0]:.2f} to {row['walls'][-1]:.2f})",
        _ratio(row["ratio"]),
        _ratio(row["ratio_of_fastest"]),
        f"{row['processor']:.2f}",
        _size(row["memory"]),
    ]
    return f"| {' | '.join(cells)} |"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 10**9 else f"{nbytes / 1e6:.0f} MB"


def markdown(result: dict[str, Any]) -> str:
    """Return a whole run."""
    head = (
        f"{result['machine']}, {result['file_system']}; {result['bytes'] / 1e9:g} GB of float32"
        f" weights; medians of the rounds, {result['date']}.\n"
    )
    groups = [table(g) for g in result["groups"] if g["name"] != "size"]
    if sizes := [group for group in result["groups"] if group["name"] == "size"]:
        groups.append(_sizes(sizes))
    return "\n".join(filter(None, [head, goals.table(result), *groups]))


def _sizes(groups: Sequence[dict[str, Any]]) -> str:
    names = [row["name"] for row in groups[0]["rows"]]
    lines = ["### Time and memory against size", "", f"| | {' | '.join(names)} |"]
    lines.append("|---" * (len(names) + 1) + "|")
    for group in groups:
        found = {row["name"]: row for row in group["rows"]}
        lines.append(f"| {group['title']} | {' | '.join(_cell(found.get(n)) for n in names)} |")
    return "\n".join([*lines, ""])


def _cell(row: dict[str, Any] | None) -> str:
    if row is None or "failed" in row:
        return ""
    return f"{row['wall']:.2f} s, {_size(row['memory'])}"


def render(result: dict[str, Any], docs: Path) -> None:
    """Put the results into `performance.md` and draw its pictures."""
    from benchmarks import plot

    page = docs / "performance.md"
    text = _MARK.sub(lambda m: m[1] + markdown(result) + m[2], page.read_text())
    page.write_text(text)
    plot.draw(result, docs / "img")


def load(path: Path) -> dict[str, Any]:
    """Return the results of a run."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found
