"""Where two live models with the same weights begin to differ, and by which setting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from porter.frameworks.live.signature import SAME, distance

Call = Mapping[str, Any]
"""`path`, `kind` (class), `inputs` and `output` (signatures) and `settings` of a module's call."""
_ALIKE = {"_epsilon": "eps", "epsilon": "eps", "variance_epsilon": "eps", "_p": "p"}
_NOT_COMPARED = {"training", "in_features", "out_features", "num_features"}


def diagnosed(left: Sequence[Call], right: Sequence[Call], paths: Mapping[str, str]) -> str:
    """Return a sentence; `paths` are {module of the right: the left's module with its weights}.

    The first module of the right whose input is not the left's follows what computes otherwise: the
    module with weights before it, if that has the left's input and another output (an activation
    that is part of one and not of the other is no difference), or what is between the two.
    """
    by_path = {call["path"]: call for call in reversed(left)}
    before: Call | None = None
    for place, call in enumerate(right):
        partner = by_path.get(paths.get(call["path"], "\0"))
        if partner is None or not call["weights"]:
            continue
        is_same = _same(partner["inputs"][:1], call["inputs"][:1])
        if not is_same and "Embedding" in call["kind"]:
            # positions may be counted from another number: what comes out is the same
            is_same = _known_same(partner["output"], call["output"])
        if not is_same:
            last = None if before is None else by_path[paths[before["path"]]]
            if (
                last is not None
                and before is not None
                and not _same([last["output"]], [before["output"]])
            ):
                return _other_module(last, before)
            return _between(left, right, place, partner, call, before)
        before = call
    if before is not None:
        last = by_path[paths[before["path"]]]
        if not _same([last["output"]], [before["output"]]):
            return _other_module(last, before)
    return _after(left, right, by_path, paths)


def other_eps(left: Sequence[Call], right: Sequence[Call], paths: Mapping[str, str]) -> str:
    """Return a sentence on the first module whose eps is not the left's; empty for none."""
    by_path = {call["path"]: call for call in reversed(left)}
    for call in right:
        partner = by_path.get(paths.get(call["path"], "\0"))
        if partner is not None:
            found = _differing(_eps(partner["settings"]), _eps(call["settings"]))
            if found:
                return f"{call['path']} ({call['kind']}) and {partner['path']}: {found}"
    return ""


def _eps(settings: Mapping[str, Any]) -> dict[str, Any]:
    named = {_ALIKE.get(key, key): value for key, value in settings.items()}
    return {"eps": named["eps"]} if isinstance(named.get("eps"), float) else {}


def _same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    if not one or not other or one[0] is None or other[0] is None:
        return True
    return distance(one[0], other[0]) < SAME


def _known_same(one: Any, other: Any) -> bool:
    return one is not None and other is not None and distance(one, other) < SAME


def _other_module(left: Call, right: Call) -> str:
    names = f"{right['path']} ({right['kind']}) computes otherwise than {left['path']}"
    settings = _differing(left["settings"], right["settings"])
    return f"{names} ({left['kind']})" + (f": {settings}" if settings else "")


def _differing(left: Mapping[str, Any], right: Mapping[str, Any]) -> str:
    """Return the settings that both have, with other values."""
    one, other = ({_ALIKE.get(k, k): v for k, v in side.items()} for side in (left, right))
    shared = [k for k in one if k in other and k not in _NOT_COMPARED]
    found = [k for k in shared if not _equal(one[k], other[k])]
    return ", ".join(f"{key} is {other[key]} there and {one[key]} here" for key in found)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, list | tuple) or isinstance(other, list | tuple):
        flat = [v if isinstance(v, list | tuple) else [v] for v in (one, other)]
        return {str(x) for x in flat[0]} == {str(x) for x in flat[1]}
    if isinstance(one, float) or isinstance(other, float):
        return (
            isinstance(one, int | float)
            and isinstance(other, int | float)
            and (math.isclose(one, other, rel_tol=1e-6))
        )
    return str(one) == str(other)


def _between(
    left: Sequence[Call], right: Sequence[Call], place: int, partner: Call, call: Call,
    before: Call | None,
) -> str:  # fmt: skip
    """Return what is called before a module whose input differs, without weights."""
    start = right.index(before) + 1 if before is not None else 0
    plain = [c for c in right[start:place] if not c["weights"] and c["inputs"]]
    text = f"the input of {call['path']} ({call['kind']}) is not that of {partner['path']}"
    ratio = _ratio(partner, call)
    if ratio:
        text += f": it is {ratio:g} times that"
    for one in plain:
        if one["settings"].get("mode") == "downscale_in_infer" and one["settings"].get("p"):
            share = 1 - float(one["settings"]["p"])
            return (
                f"{text}; {one['path']} ({one['kind']}) multiplies by {share:g} when it does not"
                " drop: its mode is downscale_in_infer"
            )
    ours = left[: left.index(partner)]
    other = _odd(ours, plain)
    after = f", after {before['path']}" if before is not None else ""
    return text + after + (f"; {other}" if other else "")


def _ratio(left: Call, right: Call) -> float:
    """Return by which number one input is multiplied to give the other, 0 for none."""
    one, other = left["inputs"][0], right["inputs"][0]
    if one[0] != other[0] or not one[1]:
        return 0.0
    factor = other[1] / one[1]
    scaled = [one[0], *(value * factor for value in one[1:])]
    return round(factor, 4) if distance(scaled, other) < SAME else 0.0


def _odd(left: Sequence[Call], right: Sequence[Call]) -> str:
    """Return a module without weights that has another setting than the left's of its class."""
    for call in right:
        for other in left:
            if not (call["path"] and other["path"]) or other["weights"]:
                continue
            if not _alike(other["kind"], call["kind"]):
                continue
            if _same(other["inputs"][:1], call["inputs"][:1]) and not _same(
                [other["output"]], [call["output"]]
            ):
                return _other_module(other, call)
    return ""


def _alike(one: str, other: str) -> bool:
    return one.lower().rstrip("123d") == other.lower().rstrip("123d")


def _after(
    left: Sequence[Call], right: Sequence[Call], by_path: Mapping[str, Call],
    paths: Mapping[str, str],
) -> str:  # fmt: skip
    """Return what follows when all modules with weights agree."""
    odd = _odd(left, [call for call in right if not call["weights"]])
    if odd:
        return odd
    last = next((c for c in reversed(right) if c["path"] in paths), None)
    return f"all modules with weights agree; what follows {last['path']} differs" if last else ""
