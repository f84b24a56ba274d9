"""The error of every layer on a log scale, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence

from porter.errors import html_escaped as escape
from porter.verification.checks import LayerCheck
from porter.verification.compare import Figures

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 960, 340, 76, 28, 30
_FLOOR = 1e-17


def layer_plot(layers: Sequence[LayerCheck], precision: str = "float32") -> str:
    """Return a chart: layers from input to output, one mark for each error, and the limits.

    The first layer that fails is named. `precision` is that of the right side's second run.
    """
    series = [
        ("own", "left in float32", [_error(check.own) for check in layers]),
        ("rounded", f"right in {precision}", [_error(check.rounded) for check in layers]),
        ("exact", "right in float64", [_error(check.exact) for check in layers]),
    ]
    judged = "float64" if any(check.exact is not None for check in layers) else precision
    values = [v for _, _, errors in series for v in errors if v is not None]
    limits = [check.limit for check in layers]
    if not values:
        return ""
    low = math.floor(math.log10(max(min([*values, *limits]), _FLOOR)))
    high = math.ceil(math.log10(max([*values, *limits, 10 * 10.0**low])))
    parts = [_grid(low, high), _limits(limits, low, high), _first(layers)]
    for kind, label, errors in series:
        parts += [
            _mark(kind, label, index, error, layers, low, high)
            for index, error in enumerate(errors)
            if error is not None
        ]
    legend = "".join(
        f'<span class="key {kind}">{escape(label)}</span>'
        for kind, label, errors in series
        if any(error is not None for error in errors)
    )
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"'
        f' aria-label="error of each layer, log scale">{"".join(parts)}</svg>'
        f'<figcaption>{legend}<span class="key limit">limit of the right side in'
        f" {escape(judged)}</span></figcaption></figure>"
    )


def _error(figures: Figures | None) -> float | None:
    if figures is None or figures.error != figures.error:
        return None
    return max(figures.error, _FLOOR)


def _x(index: int, count: int) -> float:
    return _LEFT + (index + 0.5) * (_WIDTH - _LEFT - 6) / max(count, 1)


def _y(value: float, low: int, high: int) -> float:
    share = (math.log10(value) - low) / (high - low)
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)


def _grid(low: int, high: int) -> str:
    step = max(1, (high - low) // 6)
    parts = []
    for power in range(low, high + 1, step):
        y = _y(10.0**power, low, high)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - 6}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">1e{power}</text>'
        )
    ends = (
        f'<text x="{_LEFT}" y="{_HEIGHT - 5}">input</text>'
        f'<text x="{_WIDTH - 6}" y="{_HEIGHT - 5}" text-anchor="end">output</text>'
    )
    return "".join(parts) + ends


def _first(layers: Sequence[LayerCheck]) -> str:
    """Return a line at the first layer that fails, with its name on the roomier side."""
    index = next((i for i, check in enumerate(layers) if not check.passed), None)
    if index is None:
        return ""
    x, name = _x(index, len(layers)), escape(layers[index].place or "the model")
    anchor, text_x = ("end", x - 6) if x > _WIDTH / 2 else ("start", x + 6)
    return (
        f'<line class="first" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 22}" y2="{_HEIGHT - _BOTTOM}"/>'
        f'<text class="first" x="{text_x:.1f}" y="{_TOP - 10}" text-anchor="{anchor}">{name}</text>'
    )


def _limits(limits: Sequence[float], low: int, high: int) -> str:
    points = " ".join(
        f"{_x(i, len(limits)):.1f},{_y(max(v, _FLOOR), low, high):.1f}"
        for i, v in enumerate(limits)
    )
    return f'<polyline class="limit" points="{points}"/>'


def _mark(
    kind: str, label: str, index: int, error: float, layers: Sequence[LayerCheck], low: int,
    high: int,
) -> str:  # fmt: skip
    check = layers[index]
    bad = kind == "exact" or (kind == "rounded" and check.exact is None)
    name = f"{kind} bad" if bad and not check.passed else kind
    title = escape(f"{check.place or 'the model'}: {error:.1e} ({label})")
    x, y = _x(index, len(layers)), _y(error, low, high)
    return (
        f'<circle class="{name}" cx="{x:.1f}" cy="{y:.1f}" r="2.6"><title>{title}</title></circle>'
    )
