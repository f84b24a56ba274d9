"""What was promised of speed and memory, and what a run measured of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
_PAIRS = ("torch", "paddle", "safetensors", "turned-back")


@dataclass(frozen=True, slots=True)
class Goal:
    """One promise: a number per run of which the worst counts."""

    text: str
    limit: float
    unit: str
    values: Callable[[dict[str, list[Row]], str], Iterable[float]]
    """Of the rows of each group and what stands for a time in them: `wall` or `fastest`."""
    most: bool = True
    """Whether the limit is the most allowed, or the least."""

    def line(self, groups: dict[str, list[Row]]) -> str | None:
        """Return the row of the table, None when the run did not measure it."""
        worst = max if self.most else min
        try:
            found = [worst(self.values(groups, time)) for time in ("wall", "fastest")]
        except (KeyError, ValueError):
            return None
        held = [value <= self.limit if self.most else value >= self.limit for value in found]
        said = "yes" if held[0] else "by the fastest rounds" if held[1] else "no"
        bound = f"{'≤' if self.most else '≥'} {self.limit:g} {self.unit}"
        shown = [f"{value:.3g} {self.unit}" for value in found]
        return f"| {self.text} | {bound} | {shown[0]} | {shown[1]} | {said} |"


def table(result: dict[str, Any]) -> str:
    """Return the goals as a Markdown table, by medians and by the fastest rounds; or nothing."""
    groups: dict[str, list[Row]] = {}
    for group in result["groups"]:
        rows = [r | {"fastest": r["walls"][0]} for r in group["rows"] if "failed" not in r]
        groups.setdefault(group["name"], []).extend(rows)
    lines = [line for goal in GOALS if (line := goal.line(groups))]
    if not lines:
        return ""
    head = ["### Goals", "", "| goal | limit | worst, by medians | by fastest rounds | met |",
            "|---|---|---|---|---|"]  # fmt: skip
    return "\n".join([*head, *lines, ""])


def _named(rows: list[Row], *parts: str) -> list[Row]:
    return [row for row in rows if all(part in row["name"] for part in parts)]


def _against(base: str, *parts: str) -> Callable[[dict[str, list[Row]], str], Iterable[float]]:
    """Return ratios, over the source containers, of rows to the row `base` of their group."""

    def values(groups: dict[str, list[Row]], time: str) -> Iterable[float]:
        for name in _PAIRS:
            (first,) = [row for row in groups[name] if row["name"] == base]
            yield from (row[time] / first[time] for row in _named(groups[name], *parts))

    return values


def _within(
    group: str, base: str, *parts: str
) -> Callable[[dict[str, list[Row]], str], Iterable[float]]:
    def values(groups: dict[str, list[Row]], time: str) -> Iterable[float]:
        (first,) = [row for row in groups[group] if row["name"] == base]
        return [row[time] / first[time] for row in _named(groups[group], *parts)]

    return values


def _one(groups: dict[str, list[Row]], name: str) -> Row:
    (row,) = [row for row in groups["fleet"] if row["name"] == name]
    return row


def _proofs(groups: dict[str, list[Row]], workers: int) -> Row:
    return _one(groups, f"porter fleet, {workers} worker{'s' * (workers > 1)}")


def _scripts(groups: dict[str, list[Row]], time: str) -> dict[str, float]:
    """Return {script: how many times the time of porter's job before it}."""
    found, ours = {}, 1.0
    for row in groups["scripts"]:
        if row["name"].startswith("porter") and not row["name"].endswith("as it comes"):
            ours = row[time]
        elif not row["name"].startswith(("porter", "cp")):
            found[f"{len(found)} {row['name']}"] = row[time] / ours
    return found


def _memory(groups: dict[str, list[Row]], time: str) -> Iterable[float]:
    for name in (*_PAIRS, "size"):
        for row in groups[name]:
            if "→" in row["name"] or row["name"] == "porter":
                yield row["memory"] / 1e6


GOALS = (
    Goal("names only, bare, any pair, against `cp`", 1.25, "×", _against("cp", "names, bare")),
    Goal("names only with digests, against `cp`", 1.6, "×", _against("cp", "names, digests")),
    Goal("every Linear transposed, with digests, against `cp`", 2.5, "×",
         _against("cp", "transposed, digests")),
    Goal("the script through Paddle tensors, against porter", 12, "×",
         lambda groups, time: [_scripts(groups, time)["0 torch → paddle tensors"]], most=False),
    Goal("any script, against porter", 1, "×",
         lambda groups, time: _scripts(groups, time).values(), most=False),
    Goal("peak anonymous memory, any pair and size", 100, "MB", _memory),
    Goal("synced, names only with digests, against `cp` and `sync`", 1.2, "×",
         _within("promises", "cp and sync", "names only, synced")),
    Goal("names only, proven, read back, synced, against `cp` and `sync`", 1.5, "×",
         _within("promises", "cp and sync", "names only, as it comes")),
    Goal("every Linear transposed, proven, read back, synced, against `cp` and `sync`", 1.8, "×",
         _within("promises", "cp and sync", "as it comes: weights proven")),
    Goal("100,000 small tensors, any pair, against the script through Paddle tensors", 1, "×",
         _within("many", "torch → paddle tensors", "porter")),
    Goal("ViT-B/16 as a whole process, with digests", 0.35, "s",
         lambda groups, time: [
             row[time] for row in groups["vit"] if row["name"] == "porter, digests"
         ]),
    Goal("`--help`, `list`, `inspect`, against importing click and NumPy", 1.5, "×",
         _within("startup", "python -c 'import click, numpy'", "porter")),
    Goal("`porter convert shunted-s` with its proof, against importing both frameworks", 3, "×",
         _within("verification", "import torch, import paddle", "shunted-s")),
    Goal("a conversion from an address, against fetching the file, over a gigabit line", 1.1, "×",
         _within("remote", "fetching the file over a gigabit line",
                 "porter convert over a gigabit line")),
    Goal("thirty small proofs, one command each, against one manifest and two workers", 4, "×",
         lambda groups, time: [
             _one(groups, "30 commands")[time] / _proofs(groups, 2)[time]
         ], most=False),
    Goal("thirty small proofs in one manifest, which took 6 to 12 minutes once", 90, "s",
         lambda groups, time: [_proofs(groups, workers)[time] for workers in (1, 2)]),
    Goal("transposing conversions: two workers on two cores, against one on one", 1.8, "×",
         lambda groups, time: [
             _one(groups, "1 worker on 1 core")[time] / _one(groups, "2 workers on 2 cores")[time]
         ], most=False),
    Goal("5,000 small files in one manifest, bare, the rate of `cp -r`", 60, "%",
         lambda groups, time: [
             100 * _one(groups, "cp -r")[time]
             / _one(groups, "porter fleet, 2 workers, bare")[time]
         ], most=False),
    Goal("5,000 small files, proven, read back, synced, the rate of `cp -r` and `sync`", 60, "%",
         lambda groups, time: [
             100 * _one(groups, "cp -r and sync")[time]
             / _named(groups["fleet"], "as it comes")[0][time]
         ], most=False),
    Goal("memory of the process that runs a manifest, or one checkpoint's shards", 150, "MB",
         lambda groups, time: [
             row["own_memory"] / 1e6 for row in groups["fleet"] if "worker" in row["name"]
         ]),
)  # fmt: skip
