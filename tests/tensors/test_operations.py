"""Operations: each inverse is exact, shape rules agree with array rules, splits keep sizes."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from porter.errors import TableError
from porter.tensors import operations
from porter.tensors.lazy import LazyTensor


def counting(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(prod(shape), dtype=np.int64).reshape(shape)


@st.composite
def shapes_and_ops(draw: st.DrawFn) -> tuple[tuple[int, ...], operations.Op]:
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    axis = draw(st.integers(0, len(shape) - 1))
    divisors = [n for n in range(1, shape[axis] + 1) if shape[axis] % n == 0]
    choices = [
        operations.Permute(tuple(draw(st.permutations(range(len(shape)))))),
        operations.Unflatten(axis, draw(st.sampled_from(divisors))),
        operations.Unsqueeze(draw(st.integers(0, len(shape)))),
        operations.Flip(axis),
        operations.Interleave(axis, draw(st.sampled_from(divisors))),
        operations.Deinterleave(axis, draw(st.sampled_from(divisors))),
        operations.Reshape(shape, (prod(shape),)),
        operations.Regroup(
            axis, (draw(st.sampled_from(divisors)), 0), tuple(draw(st.permutations(range(2))))
        ),
    ]
    if len(shape) > axis + 1:
        choices.append(operations.Flatten(axis, shape[axis]))
    if shape[axis] == 1:
        choices.append(operations.Squeeze(axis))
    return shape, draw(st.sampled_from(choices))


@given(shapes_and_ops())
def test_inverse_restores_every_element(case: tuple[tuple[int, ...], operations.Op]) -> None:
    """An operation and its inverse give the same bytes and shape back."""
    shape, op = case
    tensor = LazyTensor.of(counting(shape))
    there = op.apply(tensor)
    assert there.shape == op.shape(shape) == there.read().shape
    back = op.inverse().apply(LazyTensor.of(there.read()))
    assert back.shape == shape
    np.testing.assert_array_equal(back.read(), tensor.read())
    assert op.inverse().inverse() == op


def test_a_cut_comes_back_with_zeros() -> None:
    """The last entries are left out; the way back has the shape, and zeros in their place."""
    op = operations.parse("cut 0 1", {})
    tensor = LazyTensor.of(counting((3, 2)))
    there = op.apply(tensor)
    assert there.shape == op.shape((3, 2)) == (2, 2)
    back = op.inverse().apply(there)
    assert back.shape == (3, 2)
    np.testing.assert_array_equal(back.read(), [[0, 1], [2, 3], [0, 0]])
    assert op.inverse().inverse() == op
    with pytest.raises(operations.ShapeError):
        op.shape((1, 2))


@given(shapes_and_ops())
def test_operation_moves_elements_and_loses_none(
    case: tuple[tuple[int, ...], operations.Op],
) -> None:
    """The result holds each element of the input once."""
    shape, op = case
    moved = op.apply(LazyTensor.of(counting(shape))).read()
    assert sorted(moved.reshape(-1).tolist()) == list(range(prod(shape)))


@given(shapes_and_ops())
def test_text_of_an_operation_reads_back(case: tuple[tuple[int, ...], operations.Op]) -> None:
    """`str(op)` is what a table may write for it."""
    _, op = case
    assert operations.parse(str(op), {}) == op


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.lists(st.integers(1, 5), min_size=0, max_size=2),
    st.integers(0, 2),
)
def test_unequal_concat_splits_at_its_sizes(sizes: list[int], rest: list[int], axis: int) -> None:
    """Parts of unequal sizes come back as they were."""
    axis = min(axis, len(rest))
    arrays = [
        counting((*rest[:axis], size, *rest[axis:])) + 1000 * i for i, size in enumerate(sizes)
    ]
    join = operations.Concat(axis, tuple(sizes))
    whole = join.join([LazyTensor.of(a) for a in arrays])
    assert whole.shape == join.join_shape([a.shape for a in arrays])
    np.testing.assert_array_equal(whole.read(), np.concatenate(arrays, axis))
    parts = join.split(LazyTensor.of(whole.read()), len(sizes))
    for part, array in zip(parts, arrays, strict=True):
        np.testing.assert_array_equal(part.read(), array)


@given(st.lists(st.integers(1, 4), min_size=0, max_size=3), st.integers(1, 4), st.integers(0, 3))
def test_stack_comes_apart(shape: list[int], count: int, axis: int) -> None:
    """Stacked tensors come back as they were."""
    axis = min(axis, len(shape))
    arrays = [counting(tuple(shape)) + 1000 * i for i in range(count)]
    join = operations.Stack(axis)
    whole = join.join([LazyTensor.of(a) for a in arrays])
    np.testing.assert_array_equal(whole.read(), np.stack(arrays, axis))
    for part, array in zip(join.split(LazyTensor.of(whole.read()), count), arrays, strict=True):
        np.testing.assert_array_equal(part.read(), array)


def test_permutations_that_cancel_give_the_source_back() -> None:
    """Two transposes leave the very tensor, so that its bytes can be copied unseen."""
    tensor = LazyTensor.of(counting((2, 3)))
    transpose = operations.Permute((1, 0))
    assert transpose.apply(transpose.apply(tensor)) is tensor


def test_a_number_may_be_a_product() -> None:
    """Numbers and sizes of the architecture are multiplied."""
    op = operations.parse("flatten 0 window_size*window_size", {"window_size": 7})
    assert op == operations.Flatten(0, 49)
    with pytest.raises(TableError, match="is not a size"):
        operations.parse("flatten 0 7*", {})


def test_regroup_is_what_it_says() -> None:
    """The factors of an axis change places; the one that is open takes what is left."""
    columns_rows = np.arange(12).reshape(2, 2, 3)
    op = operations.parse("regroup 1 2,2,* -> 2,1,0", {})
    tensor = LazyTensor.of(columns_rows.reshape(1, 12))
    assert op.apply(tensor).read().tolist() == [columns_rows.transpose(2, 1, 0).ravel().tolist()]
    assert str(op.inverse()) == "regroup 1 *,2,2 -> 2,1,0"


@pytest.mark.parametrize("text", ["regroup 1 2,2", "regroup 1 2,2 -> 1,0", "regroup 0 2,* -> 1,1"])
def test_a_regroup_that_is_no_permutation_is_refused(text: str) -> None:
    """One factor is open, and each has one place."""
    with pytest.raises(TableError, match="regroup"):
        operations.parse(text, {})


def test_interleave_is_what_it_says() -> None:
    """Runs of q and k become alternating entries."""
    joined = np.array([1, 2, 3, 11, 12, 13])
    moved = operations.Interleave(0, 2).apply(LazyTensor.of(joined)).read()
    assert moved.tolist() == [1, 11, 2, 12, 3, 13]
    assert (
        operations.Deinterleave(0, 2).apply(LazyTensor.of(moved)).read().tolist() == joined.tolist()
    )


@pytest.mark.parametrize(
    ("op", "shape"),
    [
        (operations.Permute((1, 0)), (2, 3, 4)),
        (operations.Unflatten(0, 4), (6,)),
        (operations.Flatten(0, 3), (2, 3)),
        (operations.Squeeze(0), (2,)),
        (operations.Interleave(1, 3), (3, 4)),
        (operations.Reshape((4,), (2, 2)), (6,)),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(op: operations.Op, shape: tuple[int, ...]) -> None:
    """Shape rules refuse before anything is read."""
    with pytest.raises(operations.ShapeError):
        op.shape(shape)


@pytest.mark.parametrize(
    "text",
    ["turn", "permute 0 0", "permute", "flip", "unflatten 0 headz", "reshape 4 -> 5", "reshape 4"],
)
def test_nonsense_operations_are_table_errors(text: str) -> None:
    """What is no operation is refused when the table is read."""
    with pytest.raises(TableError):
        operations.parse(text, {"heads": 3})


@pytest.mark.parametrize("text", ["concat", "stack x", "concat 0 parts 1,2", "glue 0"])
def test_nonsense_joins_are_table_errors(text: str) -> None:
    """What is no join is refused when the table is read."""
    with pytest.raises(TableError):
        operations.parse_join(text, {})


def test_parts_of_two_dtypes_are_not_joined() -> None:
    """A join never casts."""
    parts = [LazyTensor.of(np.zeros(2, np.float32)), LazyTensor.of(np.zeros(2, np.float64))]
    with pytest.raises(operations.ShapeError, match="dtype"):
        operations.Concat(0).join(parts)
