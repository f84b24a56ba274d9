"""Time and memory against size, as SVG, by hand: two panels, both axes logarithmic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, floor, log10
from pathlib import Path
from typing import Any

Point = tuple[float, float]
_COLOURS = {"porter": "#0072b2", "paddle tensors": "#d55e00", "cp": "#777777", "NumPy": "#009e73"}
_WIDTH, _HEIGHT, _LEFT, _TOP = 380, 300, 60, 36


def draw(result: dict[str, Any], folder: Path) -> None:
    """Write `time-and-memory.svg` into a folder when the run had a series of sizes."""
    groups = [group for group in result["groups"] if group["name"] == "size"]
    if len(groups) < 2:
        return
    names = [row["name"] for row in groups[0]["rows"]]
    names = sorted(names, key=lambda name: name != "porter")
    panels = [
        _panel(0, "wall time, s", names, groups, lambda row: row["wall"]),
        _panel(
            1,
            "peak anonymous memory, MB",
            [name for name in names if name != "cp"],
            groups,
            lambda row: row["memory"] / 1e6,
        ),
    ]
    total = 2 * (_WIDTH + _LEFT + 40)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "time-and-memory.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {_HEIGHT + 90}"'
        ' font-family="sans-serif" font-size="13">\n'
        f'<rect width="{total}" height="{_HEIGHT + 90}" fill="white"/>\n'
        + "\n".join(panels)
        + "\n</svg>\n"
    )


def _panel(
    column: int,
    title: str,
    names: Sequence[str],
    groups: Sequence[dict[str, Any]],
    value: Callable[[dict[str, Any]], float],
) -> str:
    lines: dict[str, list[Point]] = {name: [] for name in names}
    for group in groups:
        size = float(group["title"].split()[0])
        for row in group["rows"]:
            if row["name"] in lines and "failed" not in row:
                lines[row["name"]].append((size, max(value(row), 1e-3)))
    points = [point for line in lines.values() for point in line]
    across = _scale([x for x, _ in points], _WIDTH)
    up = _scale([y for _, y in points], _HEIGHT)

    def at(point: Point) -> str:
        return f"{across(point[0]):.1f},{_HEIGHT - up(point[1]):.1f}"

    parts = [
        f'<g transform="translate({_LEFT + column * (_WIDTH + _LEFT + 40)},{_TOP})">',
        f'<text x="0" y="-14" font-weight="bold">{title}</text>',
        f'<path d="M0 0V{_HEIGHT}H{_WIDTH}" fill="none" stroke="black"/>',
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT + 40}" text-anchor="middle">checkpoint, GB</text>',
    ]
    for x in sorted({x for x, _ in points}):
        parts.append(
            f'<text x="{across(x):.1f}" y="{_HEIGHT + 18}" text-anchor="middle">{x:g}</text>'
        )
    for y in _ticks([y for _, y in points]):
        height = _HEIGHT - up(y)
        parts.append(f'<path d="M0 {height:.1f}H{_WIDTH}" stroke="#dddddd"/>')
        parts.append(f'<text x="-6" y="{height + 4:.1f}" text-anchor="end">{y:g}</text>')
    for i, (name, line) in enumerate(lines.items()):
        colour = _COLOURS.get(name, "black")
        path = " ".join(map(at, line))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{at(p).split(",")[0]}" cy="{at(p).split(",")[1]}" r="3" fill="{colour}"/>'
            for p in line
        ]
        parts.append(f'<text x="10" y="{14 + 17 * i}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</g>"])


def _scale(values: Sequence[float], length: float) -> Callable[[float], float]:
    low, high = log10(min(values)), log10(max(values))
    margin = 0.08 * (high - low or 1)
    return lambda value: (log10(value) - low + margin) / (high - low + 2 * margin) * length


def _ticks(values: Sequence[float]) -> list[float]:
    low, high = floor(log10(min(values))), ceil(log10(max(values)))
    ticks = [10.0**power * step for power in range(low, high + 1) for step in (1, 3)]
    return [tick for tick in ticks if min(values) <= tick <= max(values)]
