"""The operations of a program that read parameters, and how they are wired; nothing is computed.

An operation that reads a parameter is a step. What is between two steps, activations, sums and
changes of shape, is left out: a step knows the steps whose results reach it through those.
Both forms of programs, PIR and ProgramDesc, have the same steps. What a loop computes is there
once, with what it begins with; that it goes back to its beginning has no part in the wiring.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from porter.codecs.paddle.operations import Operation, Program

_SAME = {"depthwise_conv2d": "conv2d", "depthwise_conv2d_transpose": "conv2d_transpose",
         "matmul_v2": "matmul", "mul": "matmul", "elementwise_add": "add",
         "elementwise_mul": "multiply", "lookup_table_v2": "embedding", "bmm": "matmul",
         "sync_batch_norm": "batch_norm", "bicubic_interp_v2": "bicubic_interp",
         "elementwise_sub": "subtract", "elementwise_div": "divide",
         "gather_nd": "gather", "index_elementwise_get": "gather",
         "index_get": "gather"}  # fmt: skip
"""Operations that are one kind of step, whatever the form calls them."""
_SHAPED = {"reshape", "reshape2", "transpose", "transpose2", "unsqueeze", "unsqueeze2", "squeeze",
           "squeeze2", "flatten", "flatten_contiguous_range", "cast", "assign", "share_data",
           "expand", "expand_v2", "expand_as", "expand_as_v2"}  # fmt: skip
"""Operations whose result is the parameter, in another shape or type."""
_SIZES = {"shape", "shape64", "numel", "full_like", "fill_any_like", "full_batch_size_like",
          "fill_constant_batch_size_like"}  # fmt: skip
"""Operations whose result depends on sizes only, not on values."""
_SLOTS = {"batch_norm": ("X", "Mean", "Variance", "Scale", "Bias"),
          "layer_norm": ("X", "Scale", "Bias")}  # fmt: skip
"""The slots of a ProgramDesc in the order of PIR's operands, where several are parameters."""


@dataclass(frozen=True, slots=True)
class Step:
    """An operation that reads parameters."""

    label: str
    """Its kind, and what tells it from others of its kind: kernel, strides, epsilon."""
    parameters: tuple[str, ...]
    before: tuple[int, ...]
    """The steps whose results it reads, by their places in the program."""


def steps(program: Program, parameters: Sequence[str]) -> list[Step]:
    """Return the steps of a program in its order."""
    found: list[Step] = []
    names = {} if program.is_pir else {name: name for name in parameters}
    sources: dict[str, frozenset[int]] = {}
    for operation in program.operations:
        if operation.kind == "parameter":
            names[operation.outputs["0"][0]] = operation.inputs["0"][0]
            continue
        kind = operation.kind.removesuffix("_")
        kind = _SAME.get(kind, kind)
        values = list(_values(operation, kind))
        read = [names[value] for value in values if value in names]
        results = [value for group in operation.outputs.values() for value in group]
        if read and kind in _SHAPED and values[0] in names:
            names[results[0]] = read[0]
            continue
        if kind in _SIZES:
            continue
        before = frozenset[int]().union(*(sources.get(value, ()) for value in values))
        if read:
            label = _label(kind, operation, program.dims.get(read[0], ()))
            found.append(Step(label, tuple(read), tuple(sorted(before))))
            before = frozenset([len(found) - 1])
        for value in results:
            if value not in names:  # the statistics of a norm are its results, too
                sources[value] = before
    return found


def _values(operation: Operation, kind: str) -> Iterator[str]:
    """Yield the values that an operation reads, in the order of PIR."""
    order = _SLOTS.get(kind, ())
    slots = {slot: at for at, slot in enumerate(order)}
    for slot in sorted(operation.inputs, key=lambda name: slots.get(name, len(slots))):
        yield from operation.inputs[slot]


def _label(kind: str, operation: Operation, shape: Sequence[int]) -> str:
    """Return what tells a step from others; sizes that depend on classes have no part in it."""
    if kind.startswith("conv"):
        sizes = [shape[2:], operation.attributes.get("strides", [])]
        return f"{kind}:{'/'.join('x'.join(map(str, size)) for size in sizes)}"  # type: ignore[arg-type]
    if kind == "batch_norm":
        return f"{kind}:{operation.attributes.get('epsilon', 0):.2g}"
    return kind
