"""What the values of two files say about tensors that a table pairs."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from porter.infer.file_values import compare
from porter.tensors.lazy import LazyTensor

X = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
BF16 = X.astype(ml_dtypes.bfloat16)


def kind(made: Any, target: Any) -> str:
    found = compare({"a": LazyTensor.of(made)}, {"a": LazyTensor.of(target)})
    return found.kinds["a"]


@pytest.mark.parametrize(
    ("made", "target", "expected"),
    [
        (X, X.copy(), "equal"),
        (X, BF16, "equal after a cast to bfloat16"),
        (X, BF16.astype(np.float32), "equal after a cast to bfloat16"),
        (X.astype(np.float16), X, "equal after a cast to float16"),
        (X, X * np.float32(1 + 1e-4), "within 0.001"),
        (X, X[::-1].copy(), "differs"),
        (X, X.T.copy(), "differs"),
        (np.ones(4, np.float32), np.ones(4, np.float32), "flat"),
        (X, np.zeros_like(X), "flat"),
    ],
)
def test_each_tensor_is_of_one_kind(made: Any, target: Any, expected: str) -> None:
    """Bit for bit, after a cast, close, flat, or another one."""
    assert kind(made, target) == expected


def test_only_files_with_the_same_weights_have_a_say() -> None:
    """Most tensors that are not flat must agree; then one that differs is in doubt."""
    tensors = {name: LazyTensor.of(X + i) for i, name in enumerate("abc")}
    tensors["flat"] = LazyTensor.of(np.zeros(3, np.float32))
    same = compare(tensors, {**tensors, "c": tensors["a"]})
    assert same.same
    assert same.doubt(["a"], "the outputs of the models differ") == ""
    assert same.doubt(["flat"], "no output shows it") == "no output shows it"
    assert "these tensors differ" in same.doubt(["a", "c"], "")
    assert same.words.endswith("2 equal; 1 are flat and prove nothing; these differ: c")
    other = compare(tensors, {**tensors, "c": tensors["a"], "b": tensors["a"]})
    assert not other.same
    assert other.doubt(["a"], "in doubt") == "in doubt"
    assert other.doubt(["b"], "") == ""
