"""Folds: one convolution computes what the branches of training compute, to the last bits."""

from __future__ import annotations

import numpy as np
import pytest

from porter.errors import TableError
from porter.tensors import folds
from porter.tensors.lazy import LazyTensor
from porter.tensors.operations import ShapeError

Array = np.ndarray
SIDE = 11


def conv(x: Array, kernel: Array, dilation: int = 1) -> Array:
    """Convolve (in, h, w) with (out, in / groups, k, k), edges padded with zeros."""
    out, per_group, size, _ = kernel.shape
    reach = dilation * (size // 2)
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach)))
    result = np.zeros((out, *x.shape[1:]))
    for row in range(size):
        for column in range(size):
            top, left = row * dilation, column * dilation
            window = padded[:, top : top + x.shape[1], left : left + x.shape[2]]
            if per_group == 1:
                result += kernel[:, 0, row, column][:, None, None] * window
            else:
                result += np.einsum("oi,ihw->ohw", kernel[:, :, row, column], window)
    return result


def norm(x: Array, parts: dict[str, Array], name: str) -> Array:
    """Normalise each channel with its running mean and variance."""
    gamma, beta, mean, variance = (
        parts[f"{name}.{leaf}"][:, None, None] for leaf in ("weight", "bias", "_mean", "_variance")
    )
    return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta


def rep_dw(x: Array, parts: dict[str, Array], _: int) -> Array:
    """Return two norms around a convolution, a scale and the input itself."""
    inner = norm(conv(x, parts["conv.conv.weight"]), parts, "conv.bn")
    return norm(inner + conv(x, parts["conv1.weight"]) + x, parts, "bn")


def dilated(x: Array, parts: dict[str, Array], kernel: int) -> Array:
    """Return the origin and its branches, summed."""
    total = norm(conv(x, parts["lk_origin.weight"]), parts, "origin_bn")
    for size, dilation in folds.BRANCHES[kernel]:
        branch = conv(x, parts[f"dil_conv_k{size}_{dilation}.weight"], dilation)
        total = total + norm(branch, parts, f"dil_bn_k{size}_{dilation}")
    return total


def dilated_dense(x: Array, parts: dict[str, Array], kernel: int) -> Array:
    """Return the depthwise branches, mixed by a 1 by 1 convolution and normalised."""
    inner = dilated(x, {n[3:]: part for n, part in parts.items() if n[:3] == "dw."}, kernel)
    return norm(conv(inner, parts["pw.weight"]), parts, "bn")


CASES = [
    ("rep_dw", 3, (4, 1, 3, 3), rep_dw),
    ("rep_dw", 5, (4, 1, 5, 5), rep_dw),
    *((f"dilated {k}", k, (4, 1, k, k), dilated) for k in folds.BRANCHES),
    *((f"dilated_dense {k}", k, (3, 4, k, k), dilated_dense) for k in folds.BRANCHES),
]


def seeded_parts(fold: folds.Fold, weight: tuple[int, ...]) -> dict[str, Array]:
    """Return branches of random values, variances above zero."""
    random = np.random.default_rng(7)
    shapes = fold.part_shapes(weight)
    return {
        name: random.uniform(0.5, 2, shape)
        if name.endswith("_variance")
        else random.standard_normal(shape)
        for name, shape in zip(fold.parts, shapes, strict=True)
    }


@pytest.mark.parametrize(
    ("text", "kernel", "weight", "unfolded"), CASES, ids=[f"{c[0]} of {c[1]}" for c in CASES]
)
def test_a_fold_computes_what_its_branches_compute(
    text: str, kernel: int, weight: tuple[int, ...], unfolded: object
) -> None:
    """In float64, the outputs of branches and fold agree to 1e-12 of the largest."""
    fold = folds.parse(text, {})
    parts = seeded_parts(fold, weight)
    x = np.random.default_rng(8).standard_normal((4, SIDE, SIDE))
    folded, bias = fold.compute(parts)
    found = conv(x, folded) + bias[:, None, None]
    wanted = unfolded(x, parts, kernel)  # type: ignore[operator]
    assert np.abs(found - wanted).max() < 1e-12 * np.abs(wanted).max()
    for name in parts:  # each part matters
        other = {**parts, name: parts[name] + 0.5}
        changed, moved = fold.compute(other)
        assert not (np.array_equal(changed, folded) and np.array_equal(moved, bias)), name


def test_tensors_are_folded_in_float64_and_rounded_once() -> None:
    """float32 branches give the float64 fold, rounded."""
    fold = folds.parse("dilated kernel", {"kernel": 5})
    parts = {n: a.astype(np.float32) for n, a in seeded_parts(fold, (4, 1, 5, 5)).items()}
    weight, bias = fold.apply([LazyTensor.of(array) for array in parts.values()])
    exact = fold.compute({name: array.astype(np.float64) for name, array in parts.items()})
    assert weight.dtype.name == bias.dtype.name == "float32"
    assert (weight.shape, bias.shape) == ((4, 1, 5, 5), (4,))
    np.testing.assert_array_equal(weight.read(), exact[0].astype(np.float32))
    np.testing.assert_array_equal(bias.read(), exact[1].astype(np.float32))


@pytest.mark.parametrize("text", ["rep_dw 3", "dilated", "dilated 4", "dilated kernel", "melt 3"])
def test_unknown_folds_are_refused(text: str) -> None:
    """A slip in a table is named."""
    with pytest.raises(TableError, match="fold"):
        folds.parse(text, {})


def test_parts_of_another_shape_are_refused() -> None:
    """The part that does not fit is named."""
    fold = folds.parse("rep_dw", {})
    shapes = fold.part_shapes((4, 1, 3, 3))
    with pytest.raises(ShapeError, match=r"conv1\.weight"):
        fold.shapes_of([*shapes[:5], (4, 1, 3, 3), *shapes[6:]])
