"""The weights of two sides, tensor by tensor under canonical names, and the faults in them.

Values are compared as bytes. For one that differs, everything that ports get wrong is tried:
transposed, another tensor's, q, k and v in another order, heads permuted, lost, left at its
default; the first that gives exactly the other side's values is named.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from porter.mapping.layers import place_of
from porter.planning.plan import Plan
from porter.tensors.blocks import Array
from porter.tensors.dtypes import DTYPES
from porter.tensors.lazy import LazyTensor
from porter.verification.checks import TensorCheck
from porter.verification.diagnose.degree import degree, distance, rounded
from porter.verification.diagnose.orders import order_of
from porter.verification.diagnose.siblings import mixed, untied
from porter.verification.diagnose.strided_views import REMEDY, VIEW, stored_order

UNRELATED = "has unrelated values"
TRANSPOSED = "matches when transposed"


def compare_tensors(
    left: tuple[Plan, Mapping[str, LazyTensor]],
    right: tuple[Plan, Mapping[str, LazyTensor]],
    rounded: str | None = None,
) -> tuple[TensorCheck, ...]:
    """Map both checkpoints to canonical names and compare the tensors of both files, as bytes.

    `rounded` is the element type that the right side's weights were rounded to, if the left's
    were not. Tensors that a side lacks for a stated reason are left out.
    """
    states = [plan.read(state) for plan, state in (left, right)]
    added = {n for plan, _ in (left, right) for n in (*plan.filled, *plan.computed)}
    names = [name for name in states[0] if name not in added]
    plan = right[0]
    rows = {name: link.row for link in plan.source.links for name in link.canonical}
    checks = [
        compared(plan, name, rows.get(name, ""), states[0], states[1], rounded) for name in names
    ]
    return tuple(_of_one_cause(checks))


def _of_one_cause(checks: list[TensorCheck]) -> list[TensorCheck]:
    """Name the cause of tensors that are not square for the square ones, too.

    A square matrix with the bytes of an untransposed view is the transposed matrix as well.
    """
    if not any(check.problem == VIEW for check in checks):
        return checks
    return [
        replace(check, problem=VIEW, remedy=REMEDY) if check.problem == TRANSPOSED else check
        for check in checks
    ]


def compared(
    plan: Plan,
    name: str,
    row: str,
    left: Mapping[str, LazyTensor],
    right: Mapping[str, LazyTensor],
    rounded: str | None = None,
) -> TensorCheck:
    """Compare one tensor of two sides under the same names, and look for its fault."""
    problem, remedy, far = "", "", 0.0
    first, second = _values(left[name], rounded), _values(right[name], None)
    if not _equal(first, second):
        second = _as(second, first)
        problem, remedy = explain(name, first, second, _Reference(plan, name, left, right, rounded))
        far = distance(first, second)
    return TensorCheck(name, row, problem, remedy, far)


def _values(tensor: LazyTensor, rounded: str | None) -> Array:
    array = tensor.read()
    if rounded is not None and tensor.dtype.is_float:
        with np.errstate(over="ignore", invalid="ignore"):
            array = array.astype(DTYPES[rounded].numpy)
    return np.array(array, order="C")


def _equal(first: Array, second: Array) -> bool:
    if first.dtype == second.dtype:
        return first.tobytes() == second.tobytes()
    return bool(np.array_equal(first.astype(np.float64), second.astype(np.float64), equal_nan=True))


def _as(array: Array, second: Array) -> Array:
    """Return an array in the element type of another, where that loses nothing."""
    same = array.astype(second.dtype)
    return same if np.array_equal(same.astype(array.dtype), array) else array


@dataclass(frozen=True, slots=True)
class _Reference:
    """The context of a tensor: its row in the table, its siblings."""

    plan: Plan
    name: str
    state: Mapping[str, LazyTensor]
    other: Mapping[str, LazyTensor]
    """The right side's tensors, also under canonical names."""
    rounded: str | None

    @property
    def leaf(self) -> str:
        place = place_of(self.plan.architecture.table, self.name)
        return place[2] if place is not None else ""

    @property
    def parts(self) -> str:
        """The parts concatenated along the tensor's first axis: `qkv`, `kv` or nothing."""
        module = self.name.split(".")[-2:-1]
        match = re.search("qkv|kv", module[0]) if module else None
        return match.group() if match else ""

    @property
    def heads(self) -> tuple[int, ...]:
        """Numbers of heads into which the tensor may be divided; none outside attention."""
        if not re.search(r"att|lca", self.name, re.IGNORECASE):
            return ()
        heads = self.plan.architecture.config.get("num_heads", ())
        return (heads,) if isinstance(heads, int) else tuple(dict.fromkeys(heads))

    def siblings(self) -> Iterator[tuple[str, Array]]:
        """Yield all other tensors of the same shape, nearest names first."""
        shape = self.state[self.name].shape
        same = [n for n, t in self.state.items() if t.shape == shape and n != self.name]
        for name in sorted(same, key=lambda n: -_common(n, self.name)):
            yield name, _values(self.state[name], self.rounded)

    def arrived(self, name: str, values: Array) -> bool:
        """Whether the right side has a tensor of the left side as it is."""
        other = self.other.get(name)
        return other is not None and _equal(values, _values(other, None))


def _common(first: str, second: str) -> int:
    """Return how many segments two names share, from both ends."""
    a, b = first.split("."), second.split(".")
    return sum(x == y for x, y in zip(a, b, strict=False)) + (a[-1] == b[-1])


def explain(name: str, left: Array, right: Array, reference: _Reference) -> tuple[str, str]:
    """Return (fault of the right side's tensor, remedy)."""
    if (match := rounded(left, right)) is not None:
        return match
    if not np.isfinite(right.astype(np.float64)).all():
        return "has NaN or infinite values", "convert it again from the source"
    steps: list[Callable[[], tuple[str, str] | None]] = [
        lambda: _lost(left, right, reference.leaf),
        lambda: _transposed(left, right),
        lambda: _stored_as_view(left, right),
        lambda: _order(left, right, reference),
        lambda: _sibling(right, reference),
        lambda: _default(right, reference.leaf),
        lambda: _scaled(left, right),
        lambda: _rearranged(left, right),
        lambda: mixed(left, right, reference.siblings()),
        lambda: degree(left, right),
        lambda: untied(left, reference.siblings(), reference.arrived),
    ]
    for step in steps:
        match = step()
        if match is not None:
            return match
    count = int(np.count_nonzero(left != right))
    if count < left.size / 2:
        return f"differs in {count} of {left.size} elements", "convert it again from the source"
    return UNRELATED, "it was not loaded, or comes from another checkpoint"


def _lost(left: Array, right: Array, leaf: str) -> tuple[str, str] | None:
    if right.any() or not left.any():
        return None
    if leaf == "running_mean":
        return "is at its default, 0", "load the batch norm's statistics"
    what = "the bias was lost: it is all zeros" if leaf == "bias" else "is all zeros"
    return what, "copy it from the source"


def _default(right: Array, leaf: str) -> tuple[str, str] | None:
    if right.size and (right == 1).all():
        if leaf == "running_var":
            return "is at its default, 1", "load the batch norm's statistics"
        return "is at its default, all ones", "copy it from the source"
    return None


def _transposed(left: Array, right: Array) -> tuple[str, str] | None:
    if left.ndim == 2 and left.shape[0] == left.shape[1] and np.array_equal(right, left.T):
        return TRANSPOSED, "transpose it: Linear weights are (out, in) in PyTorch"
    if left.ndim == 3 and left.shape[1] == left.shape[2]:
        return _transposed_stack(left, right)
    if left.ndim == 4:
        if np.array_equal(right, left[..., ::-1, ::-1]):
            return "matches when its kernel is flipped", "do not flip the kernel"
        if left.shape[2] == left.shape[3] and np.array_equal(right, left.swapaxes(2, 3)):
            return "matches when height and width are swapped", "keep the kernel as (height, width)"
        if left.shape[0] == left.shape[1] and np.array_equal(right, left.swapaxes(0, 1)):
            return "matches when in and out channels are swapped", "swap its first two axes"
    return None


def _stored_as_view(left: Array, right: Array) -> tuple[str, str] | None:
    if left.dtype != right.dtype:
        return None
    order = stored_order(left, right)
    if order is None and left.ndim == 2:  # Files of Paddle have linear layers as (in, out).
        order = stored_order(left.T, right.T)
    if order is None:
        return None
    return (VIEW if left.ndim == 2 else f"{VIEW} of axes {order}"), REMEDY


def _transposed_stack(left: Array, right: Array) -> tuple[str, str] | None:
    if not np.array_equal(right, left.swapaxes(1, 2)):
        return None
    return (
        "matches when its last two axes are swapped",
        "transpose each matrix of the stack: equal sides do not show which way it is",
    )


def _order(left: Array, right: Array, reference: _Reference) -> tuple[str, str] | None:
    for axis in range(min(left.ndim, 2)):
        match = order_of(left, right, axis, reference.parts if axis == 0 else "", reference.heads)
        if match is not None:
            return match, "reorder it as the source has it"
    return None


def _sibling(right: Array, reference: _Reference) -> tuple[str, str] | None:
    start = right.ravel()[:16]
    for name, values in reference.siblings():
        if not any(np.array_equal(v.ravel()[:16], start) for v in (values, values.T)):
            continue
        if np.array_equal(values, right):
            twice = name in reference.other and _equal(values, _values(reference.other[name], None))
            remedy = (
                "write each tensor's own values" if twice else "swap the two rows of the mapping"
            )
            return f"has the values of {name}{', which has them too' if twice else ''}", remedy
        if right.ndim == 2 and right.shape[0] == right.shape[1] and np.array_equal(values.T, right):
            return (
                f"has the values of {name}, transposed",
                "swap the two rows of the mapping and transpose",
            )
    return None


def _scaled(left: Array, right: Array) -> tuple[str, str] | None:
    x, y = left.astype(np.float64).ravel(), right.astype(np.float64).ravel()
    norm = float(x @ x)
    factor = float(x @ y) / norm if norm else 0.0
    if factor and np.allclose(y, factor * x, rtol=1e-5, atol=1e-7 * float(np.abs(y).max())):
        return f"is {factor:.6g} times the source's", "do not scale it"
    return None


def _rearranged(left: Array, right: Array) -> tuple[str, str] | None:
    if np.array_equal(np.sort(left, axis=None), np.sort(right, axis=None)):
        return (
            "has the right values in another order",
            "it was reshaped where it should be transposed, or the reverse",
        )
    return None
