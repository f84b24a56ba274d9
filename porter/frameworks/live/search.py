"""Find which units of the left model are those of the right one, by running the right one.

When a unit of the right is called, its input is compared with those of the left's units: it gets
the weights of the one that had the same input there. Where several had it (q, k and v; gate and
up), names and the order of calls decide, and the run goes on. The first unit whose input is none
of the left's says that one of these choices was wrong: other choices are then tried, those made
last before all others. What was right in one block is preferred in the next.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice, product
from typing import Any

import numpy as np

from porter.frameworks.live.hooks import tensors_of
from porter.frameworks.live.likeness import likeness
from porter.frameworks.live.model import Live, Stop
from porter.frameworks.live.options import options, rotated
from porter.frameworks.live.recipes import Option
from porter.frameworks.live.signature import SAME, Signature, distance, signature
from porter.frameworks.live.units import Unit
from porter.tensors.blocks import Array

LIMIT = 1e-4
"""Relative rms difference of outputs, in float32, that counts as equal."""
_GROUP_TRIALS = 120
"""Other choices that are tried for units of one input."""
_SECONDS_PAST = 60.0
"""Time for other choices behind an input that stays unknown."""
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Choice:
    """What a unit of the right was given, and why."""

    unit: Unit
    option: Option | None
    matched: bool
    """Whether its input is the one that the left's unit had."""
    known: bool
    """Whether it could have been another, by its input."""
    fitting: tuple[Option, ...]
    """All options whose input it was."""
    input: Signature | None


@dataclass
class Attempt:
    """One run of the right model."""

    choices: list[Choice] = field(default_factory=list)
    diverged: int | None = None
    """The first choice whose unit had an input that the left never had."""
    differing: list[str] = field(default_factory=list)
    """Units that had the input of the left's unit, and another output."""
    outputs: dict[str, Array] = field(default_factory=dict)
    error: float = float("inf")

    @property
    def rank(self) -> tuple[bool, float, float]:
        """How good it is."""
        reached = float("inf") if self.diverged is None else float(self.diverged)
        return self.error <= LIMIT, reached, -self.error


class Search:
    """Fills a right model from the units, tensors and outputs of a left one."""

    def __init__(
        self, right: Live, lefts: Sequence[Unit], values: Mapping[str, Array],
        inputs: Mapping[str, Array], outputs: Mapping[str, Array], seconds: float,
        silent: Collection[str] = (),
    ) -> None:  # fmt: skip
        """`silent` are the right's parameters that no output shows."""
        self.right, self.values = right, values
        self.lefts = {unit.key: unit for unit in lefts}
        self.inputs, self.wanted = inputs, outputs
        self.until = time.monotonic() + seconds
        self.runs = 0
        self._learned: dict[tuple[str, str], float] = {}
        self._assigned: dict[str, Option] = {}
        self._made: dict[int, tuple[Option, dict[str, Array]]] = {}
        order = sorted((u for u in lefts if u.call >= 0), key=lambda u: u.call)
        self._rank = {unit.key: index for index, unit in enumerate(order)}
        skipped = set(right.aliases)
        self.units = [u for u in right.units if u.floating and not set(u.roles.values()) <= skipped]
        groups = _groups([u for u in self.units if u.inputs])
        self.options = {u.key: options(u, lefts, groups.get(u.key, [u])) for u in self.units}
        self._accepted: set[str] = set()
        own = set(right.model.parameters)
        self._dead = {
            u.key for u in self.units
            if own & set(u.roles.values()) and own & set(u.roles.values()) <= set(silent)
        }  # fmt: skip
        self._static = {
            u.key: [self._score(u, option) for option in self.options[u.key]] for u in self.units
        }

    def run(self) -> Attempt:
        """Return the best attempt."""
        best = self._attempt({}, None)
        while not best.rank[0] and time.monotonic() < self.until:
            better = self._better(best) or self._past(best)
            if better is None:
                break
            best = better
        self._fill(best)
        return best

    def _past(self, best: Attempt) -> Attempt | None:
        """Go on behind an input that no choice makes known, where later ones are known again."""
        if best.diverged is None:
            return None
        later = best.choices[best.diverged + 1 :]
        if not any(c.matched and c.known and c.unit.kind != "bare" for c in later):
            return None
        if not self._accepted:
            self.until = min(self.until, time.monotonic() + _SECONDS_PAST)
        self._accepted.add(best.choices[best.diverged].unit.key)
        before = best.choices[: best.diverged + 1]
        return self._attempt({c.unit.key: c.option for c in before if c.option is not None}, None)

    def _better(self, best: Attempt) -> Attempt | None:
        if best.diverged is None and _shapes(best.outputs) != _shapes(self.wanted):
            return None  # No weights make other outputs.
        at = len(best.choices) if best.diverged is None else best.diverged
        before = {c.unit.key: c.option for c in best.choices[:at] if c.option is not None}
        for changed in self._alternatives(best, at):
            if time.monotonic() > self.until:
                return None
            trial = self._attempt({**before, **changed}, best.diverged)
            if trial.rank > best.rank:
                for key, option in changed.items():
                    self._learn(self._unit(key), option)
                return trial
        return None

    def _unit(self, key: str) -> Unit:
        return next(unit for unit in self.units if unit.key == key)

    def _alternatives(self, best: Attempt, at: int) -> Iterator[dict[str, Option]]:
        """Yield other choices for units of one input, the latest first; then for two inputs."""
        groups: list[list[Choice]] = []
        for choice in best.choices[: at + 1]:
            if choice.option is None:
                continue
            for group in groups:
                if _same_input(group[0], choice):
                    group.append(choice)
                    break
            else:
                groups.append([choice])
        groups.sort(key=lambda g: -max(best.choices.index(c) for c in g))
        for group in groups[:24]:
            yield from islice(self._regrouped(group), _GROUP_TRIALS)
        near = groups[:4]
        for one, other in combinations(near, 2):
            pairs = product(islice(self._regrouped(one), 12), islice(self._regrouped(other), 12))
            for first, second in pairs:
                yield {**first, **second}

    def _regrouped(self, group: Sequence[Choice]) -> Iterator[dict[str, Option]]:
        """Yield other choices for units that have one input."""
        now = {c.unit.key: c.option for c in group}
        choices = [
            [o for o in self._ordered(c.unit) if o.expects is None or o in c.fitting][:24]
            or self._ordered(c.unit)[:6]
            for c in group
        ]
        plain: list[dict[str, Option]] = []
        if len(group) > 6:  # too many to exchange all: two at a time
            plain += self._exchanged(group)
        else:
            for chosen in islice(product(*choices), 20_000):
                apart = not any(a.conflicts(b) for a, b in combinations(chosen, 2))
                if apart:
                    plain.append({c.unit.key: o for c, o in zip(group, chosen, strict=True)})
        yield from (p for p in plain if p != now)
        bases: list[Mapping[str, Option | None]] = [now, *plain[:6]]
        for base in bases:
            yield from self._rotated(group, base)

    def _ordered(self, unit: Unit) -> list[Option]:
        """Return the options of a unit, the likeliest by its name first."""
        pairs = zip(self._static[unit.key], self.options[unit.key], strict=True)
        scored = [(score + self._bonus(unit, o), o) for score, o in pairs]
        return [option for _, option in sorted(scored, key=lambda pair: -pair[0])]

    def _exchanged(self, group: Sequence[Choice]) -> Iterator[dict[str, Option]]:
        for one, other in combinations(group, 2):
            a = next((o for o in self.options[one.unit.key] if o.left == other.option.left), None)  # type: ignore[union-attr]
            b = next((o for o in self.options[other.unit.key] if o.left == one.option.left), None)  # type: ignore[union-attr]
            if a is not None and b is not None:
                yield {one.unit.key: a, other.unit.key: b}

    def _rotated(
        self, group: Sequence[Choice], base: Mapping[str, Option | None]
    ) -> Iterator[dict[str, Option]]:
        """Yield choices in which the rows of two units are in another rotary order."""
        members = [c.unit for c in group if c.unit.matrix is not None and base.get(c.unit.key)]
        if not 2 <= len(members) <= 6:
            return
        pairs = sorted(combinations(members, 2), key=lambda p: -_looks(p[0]) - _looks(p[1]))
        for one, other in pairs:
            for dim in _head_sizes(one, other, self.lefts, base):
                for pairs_first in (False, True):
                    changed = {}
                    for unit in (one, other):
                        option = base[unit.key]
                        assert option is not None
                        left = self.lefts[option.left[0]]
                        changed[unit.key] = rotated(option, left, dim, pairs_first=pairs_first)
                    yield {**{k: o for k, o in base.items() if o is not None}, **changed}

    def _attempt(self, forced: Mapping[str, Option], stop: int | None) -> Attempt:
        """Run the right model; a trial ends at the choice `stop` if its input is unknown again."""
        self.runs += 1
        attempt = Attempt()
        chosen: dict[str, Choice] = {}
        taken: list[Option] = list(forced.values())
        for unit in self.units:
            if unit.call < 0 and unit.key not in self._dead:
                option = forced.get(unit.key) or self._pick(unit, None, taken, -1)[0]
                if option is not None:
                    self._assign(unit, option)
                    taken.append(option)
                chosen[unit.key] = Choice(unit, option, False, False, (), None)
                attempt.choices.append(chosen[unit.key])
        at = -1

        def before(path: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            nonlocal at
            fresh = [u for u in self.right.hooks.get(path, ()) if u.key in self.options
                     and u.key not in chosen]  # fmt: skip
            if not fresh:
                return
            tensors = list(tensors_of([args, dict(kwargs)]).values())
            seen = [signature(self.right._array(t)) for t in tensors]
            for unit in fresh:
                option, matched, fitting = self._pick(unit, seen, taken, at, forced.get(unit.key))
                if unit.key in self._dead and not matched:
                    continue
                if option is not None:
                    self._assign(unit, option)
                    taken.append(option)
                    at = max(at, *(self._rank.get(key, -1) for key in option.left))
                known = option is not None and option.expects is not None
                choice = Choice(unit, option, matched, known, fitting, seen[0] if seen else None)
                chosen[unit.key] = choice
                attempt.choices.append(choice)
                self._judge(attempt, choice, stop)

        def after(path: str, output: Any) -> None:
            units = [u for u in self.right.hooks.get(path, ()) if u.key in chosen]
            if len(units) == 1:
                self._compare(attempt, chosen[units[0].key], output, stop)

        try:
            attempt.outputs = self.right.run(self.inputs, before, after)
        except Stop:
            return attempt
        self._leftover(attempt, taken, chosen)
        attempt.error = apart(self.wanted, attempt.outputs)
        return attempt

    def _leftover(
        self, attempt: Attempt, taken: list[Option], chosen: Mapping[str, Choice]
    ) -> None:
        """Give what nothing else needs to units that no output shows."""
        for unit in self.units:
            if unit.key in chosen:
                continue
            option = self._pick(unit, None, taken, -1)[0]
            if option is not None:
                self._assign(unit, option)
                taken.append(option)
            attempt.choices.append(Choice(unit, option, False, False, (), None))

    def _judge(self, attempt: Attempt, choice: Choice, stop: int | None) -> None:
        """Record a choice whose input is unknown; end a trial that comes no further."""
        blind = choice.option is None or not choice.known or choice.unit.kind == "bare"
        blind = blind or choice.unit.key in self._accepted
        if not choice.matched and not blind and self.options[choice.unit.key]:
            self._diverge(attempt, len(attempt.choices) - 1, stop)

    def _compare(self, attempt: Attempt, choice: Choice, output: Any, stop: int | None) -> None:
        """Compare the output of a unit with that of the left's unit."""
        option = choice.option
        if option is None or len(option.left) != 1 or choice.unit.kind == "bare":
            return
        left = self.lefts[option.left[0]]
        if left.output is None or left.kind == "bare" or option.layout not in ("", "out"):
            return
        tensors = list(tensors_of(output).values())
        if not tensors:
            return
        same = distance(left.output, signature(self.right._array(tensors[0]))) < SAME
        if same:
            return
        if choice.matched:
            attempt.differing.append(choice.unit.key)
        elif option.layout == "out":
            self._diverge(attempt, attempt.choices.index(choice), stop)

    def _diverge(self, attempt: Attempt, place: int, stop: int | None) -> None:
        if attempt.diverged is None or place < attempt.diverged:
            attempt.diverged = place
        if stop is not None and attempt.diverged <= stop:
            raise Stop

    def _pick(
        self, unit: Unit, seen: Sequence[Signature] | None, taken: Sequence[Option], at: int,
        forced: Option | None = None,
    ) -> tuple[Option | None, bool, tuple[Option, ...]]:  # fmt: skip
        """Return the best option that is free, whether its input is right, and all such."""
        known = self.options[unit.key]
        fits = [
            o.expects is not None and seen is not None
            and any(distance(o.expects, s) < SAME for s in seen[:4])
            for o in known
        ]  # fmt: skip
        fitting = tuple(o for o, fit in zip(known, fits, strict=True) if fit)
        if forced is not None:
            right = forced.expects is not None and seen is not None and any(
                distance(forced.expects, s) < SAME for s in seen[:4])  # fmt: skip
            return forced, right, fitting
        best, best_value = None, None
        for index, option in enumerate(known):
            if any(option.conflicts(other) for other in taken):
                continue
            value = (
                fits[index],
                option.expects is None,
                self._static[unit.key][index] + self._bonus(unit, option)
                - 0.05 * self._far(option, at),
            )  # fmt: skip
            if best_value is None or value > best_value:
                best, best_value = option, value
        return best, best_value is not None and best_value[0], fitting

    def _far(self, option: Option, at: int) -> float:
        rank = self._rank.get(option.left[0])
        return 10.0 if rank is None else min(abs(rank - at - 1), 20) / 2

    def _score(self, unit: Unit, option: Option) -> float:
        names = [likeness(recipe.left[0], name) for name, recipe in option.recipes.items()] or [0.0]
        score = 2 * sum(names) / len(names)
        if option.layout not in ("", "rows", "out"):
            score -= 0.4
        if option.variant.startswith("joined") and option.variant != "joined ":
            score -= 0.4
        if option.layout == "rows" or option.variant.startswith("joined"):
            score += 0.3 * self._in_order(unit, option)
        if option.variant.startswith("map") and option.variant != "map 0":
            score -= 0.4
        if any(op.startswith("reshape") for r in option.recipes.values() for op in r.ops):
            score -= 0.5
        return score

    def _in_order(self, unit: Unit, option: Option) -> float:
        """Return 1 where the parts are in the order q, k, v by the names of the right, else 0."""
        if option.layout == "rows":
            last = unit.key.rpartition(".")[2].lower()
            wanted = [i for i, w in enumerate("qkv") if last.startswith(w) or last.endswith(w)]
            start, size = option.spans[0][1], option.spans[0][2] - option.spans[0][1]
            return float(bool(wanted) and start == wanted[0] * size)
        orders = [self.lefts[key].order for key in option.left]
        return float(orders == sorted(orders))

    def _bonus(self, unit: Unit, option: Option) -> float:
        return self._learned.get(_templates(unit, option), 0.0)

    def _learn(self, unit: Unit, option: Option) -> None:
        """Prefer in other blocks what was right in this one."""
        self._learned[_templates(unit, option)] = 3.0
        if option.variant.startswith("rotary"):
            _, dim, first = option.variant.split()
            self._rotate_alike(unit, option, int(dim), first == "True")

    def _rotate_alike(self, unit: Unit, option: Option, dim: int, first: bool) -> None:
        """Add the rotated option to the units of the other blocks."""
        for other in self.units:
            if _template(other.key) != _template(unit.key):
                continue
            for base in list(self.options[other.key]):
                if base.variant or _template(base.left[0]) != _template(option.left[0]):
                    continue
                extra = rotated(base, self.lefts[base.left[0]], dim, pairs_first=first)
                self.options[other.key].append(extra)
                self._static[other.key].append(self._score(other, extra))

    def _assign(self, unit: Unit, option: Option) -> None:
        if self._assigned.get(unit.key) is option:
            return
        for name, recipe in option.recipes.items():
            value = recipe.made(self.values)
            self.right.model.assign(
                name, np.ascontiguousarray(value) if value.ndim else value.copy()
            )
        self._assigned[unit.key] = option

    def _fill(self, best: Attempt) -> None:
        """Leave the right model with the weights of an attempt."""
        for choice in best.choices:
            if choice.option is not None:
                self._assign(choice.unit, choice.option)


def apart(wanted: Mapping[str, Array], outputs: Mapping[str, Array]) -> float:
    """Return the largest relative rms difference of outputs, by key or else in order."""
    if not wanted or len(wanted) != len(outputs):
        return float("inf")
    by_key = wanted.keys() == outputs.keys()
    pairs = zip(
        wanted.values(),
        (outputs[key] for key in wanted) if by_key else outputs.values(),
        strict=True,
    )
    worst = 0.0
    for x, y in pairs:
        if x.shape != y.shape:
            return float("inf")
        if not x.size:
            continue
        a, b = x.astype(np.float64), y.astype(np.float64)
        with np.errstate(all="ignore"):
            rms = float(np.sqrt(np.mean(a * a)))
            error = float(np.sqrt(np.mean((a - b) ** 2))) / (rms + 1e-30)
        if not np.isfinite(error):
            return float("inf")
        worst = max(worst, error)
    return worst


def _shapes(outputs: Mapping[str, Array]) -> list[tuple[int, ...]]:
    return sorted(array.shape for array in outputs.values())


def _groups(units: Sequence[Unit]) -> dict[str, list[Unit]]:
    """Return for each unit those that have its input."""
    groups: list[list[Unit]] = []
    for unit in units:
        for group in groups:
            if distance(group[0].inputs[0], unit.inputs[0]) < 1e-6:
                group.append(unit)
                break
        else:
            groups.append([unit])
    return {unit.key: group for group in groups for unit in group}


def _same_input(one: Choice, other: Choice) -> bool:
    if one.input is None or other.input is None:
        return one.input is other.input
    return distance(one.input, other.input) < SAME


def _head_sizes(
    one: Unit, other: Unit, lefts: Mapping[str, Unit], base: Mapping[str, Option | None]
) -> list[int]:
    """Return the sizes that a head of two projections may have, by settings around them."""
    assert one.matrix is not None
    assert other.matrix is not None
    settings = [*one.sizes, *other.sizes]
    for unit in (one, other):
        option = base[unit.key]
        settings += lefts[option.left[0]].sizes if option is not None else ()
    sizes = (one.matrix[0], other.matrix[0])
    found = [n for n in settings if n > 2 and n % 2 == 0 and all(s % n == 0 for s in sizes)]
    found += [max(sizes) // n for n in settings if max(sizes) % n == 0]
    wanted = [n for n in found if n > 2 and n % 2 == 0 and all(s % n == 0 for s in sizes)]
    return list(dict.fromkeys(wanted))[:4]


def _looks(unit: Unit) -> bool:
    """Whether a unit is a query or a key by the letters of its name."""
    return bool({"q", "k"} & set(unit.key.rpartition(".")[2].lower()))


def _template(name: str) -> str:
    return _NUMBER.sub("#", name)


def _templates(unit: Unit, option: Option) -> tuple[str, str]:
    parts = ",".join(f"{_template(key)} {start}" for key, start, _ in option.spans)
    return _template(unit.key), f"{parts} {option.layout} {option.variant}"
