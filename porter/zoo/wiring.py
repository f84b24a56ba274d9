"""How the steps of a variant's program are wired, recorded once from the authors' own code.

A file of `reference_models/wirings/` has a line for each step, in the order of the program:

    conv2d:3x3/2x2 model.backbone.conv1.weight
    batch_norm:1e-05 model.backbone.bn1.{_mean,_variance,weight,bias} < 1

with the names of the parameters that it reads in Paddle's naming and, after `<`, how many lines
above the steps are whose results it reads. Shared tensors are joined by `=`; `constant_0` is a
table of the program that is no weight. `tests/zoo/record_wiring.py` makes the files.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from porter.codecs.paddle.wiring import Step
from porter.reference_models import FOLDER
from porter.zoo.architectures import Architecture

CONSTANT = "constant_"
"""How the names begin of what a program stores and the model does not."""


def wiring_of(architecture: Architecture) -> tuple[Step, ...]:
    """Return the steps of a variant's program, none where they are not recorded."""
    for name in (architecture.name, architecture.skeleton_of):
        path = FOLDER / "wirings" / f"{name}.txt"
        if name and path.is_file():
            return parse(path.read_text(encoding="utf-8"))
    return ()


@cache
def parse(text: str) -> tuple[Step, ...]:
    """Read a file of steps."""
    found: list[Step] = []
    for line in text.splitlines():
        words, _, above = line.partition(" <")
        label, *folded = words.split(" ")
        names = [name for word in folded for name in _unfolded(word)]
        before = sorted(len(found) - int(number) for number in above.split())
        found.append(Step(label, tuple(names), tuple(before)))
    return tuple(found)


def render(steps: Iterable[Step]) -> str:
    """Write a file of steps."""
    lines = []
    for at, step in enumerate(steps):
        above = [str(at - place) for place in reversed(step.before)]
        names = _folded(step.parameters)
        lines.append(" ".join([step.label, *names, *(["<", *above] if above else [])]))
    return "".join(f"{line}\n" for line in lines)


def _folded(names: tuple[str, ...]) -> list[str]:
    """Return the names of one module as a single word."""
    modules = {name.rpartition(".")[0] for name in names}
    if len(modules) != 1 or len(names) == 1:
        return list(names)
    return [f"{modules.pop()}.{{{','.join(name.rpartition('.')[2] for name in names)}}}"]


def _unfolded(word: str) -> list[str]:
    module, brace, inner = word.partition("{")
    return [module + name for name in inner[:-1].split(",")] if brace else [word]
