"""The weight-level proof."""

from __future__ import annotations

import numpy as np
import pytest

from porter.planning.plan import Plan, plan
from porter.planning.recognise import shapes_of
from porter.storage.read_back import Returned, digests_of
from porter.tensors.casts import cast
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.verification.weights import prove_weights
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded

VARIANT = find("shunted-t")


@pytest.fixture(scope="module")
def source() -> StateDict:
    return StateDict.of(seeded(VARIANT, num_classes=10).arrays())


@pytest.fixture(scope="module")
def made(source: StateDict) -> Plan:
    return plan(VARIANT, shapes_of(source), "torch", "paddle")


def changed(state: StateDict, name: str, array: np.ndarray) -> StateDict:
    return StateDict({**state, name: LazyTensor.of(array)})


def test_a_faithful_copy_is_proven_and_every_tensor_counted(source: StateDict, made: Plan) -> None:
    """A right conversion holds; the one counter that Paddle lacks is counted as lost."""
    proof = prove_weights(made, source, made.apply(source))
    assert proof.holds
    assert (proof.compared, proof.lost, proof.dropped) == (len(source) - 1, 1, 0)
    assert proof.nbytes == source.nbytes - 8


def test_the_way_back_fills_what_was_lost(source: StateDict, made: Plan) -> None:
    """The counter that the table fills is held to its value, not compared with nothing."""
    there = made.apply(source)
    back = plan(VARIANT, shapes_of(there), "paddle", "torch")
    proof = prove_weights(back, there, back.apply(there))
    assert proof.holds
    assert proof.filled == 1
    wrong = changed(back.apply(there), "patch_embed1.conv.1.num_batches_tracked", np.array(7))
    assert not prove_weights(back, there, wrong).holds


@pytest.mark.parametrize("bits", [0x7FC00001, 0x80000000, 0x00000001])
def test_one_flipped_word_is_found(source: StateDict, made: Plan, bits: int) -> None:
    """NaN payloads, -0 and denormals are compared as bytes, in a block that is not the first."""
    written = made.apply(source)
    weight = np.array(written["head.weight"].read(), order="C")
    weight.reshape(-1).view(np.uint32)[-1] = bits
    proof = prove_weights(made, source, changed(written, "head.weight", weight))
    assert proof.problems == ("head.weight has other values than the source",)


def test_equal_zeros_of_other_sign_differ(source: StateDict, made: Plan) -> None:
    """-0 for 0 fails although the two are equal as numbers."""
    zeros = changed(source, "head.bias", np.zeros(10, np.float32))
    written = changed(made.apply(zeros), "head.bias", -np.zeros(10, np.float32))
    assert not prove_weights(made, zeros, written).holds


def test_the_same_nan_is_the_same(source: StateDict, made: Plan) -> None:
    """A NaN that was copied is no difference."""
    weight = source["head.weight"].read().copy()
    weight[3, 4] = np.nan
    state = changed(source, "head.weight", weight)
    assert prove_weights(made, state, made.apply(state)).holds


def test_missing_and_extra_tensors_are_named(source: StateDict, made: Plan) -> None:
    """What the plan does not account for is a problem with its name."""
    written = dict(made.apply(source))
    bias = written.pop("head.bias")
    written["head.b"] = bias
    proof = prove_weights(made, source, written)
    assert proof.failed
    assert "head.bias" in proof.problems[0]
    assert "head.b" in proof.problems[1]


def test_dtype_and_shape_count(source: StateDict, made: Plan) -> None:
    """The same values in another type or shape fail."""
    written = made.apply(source)
    bias = written["head.bias"].read()
    for other in (bias.astype(np.float64), bias.reshape(1, -1)):
        assert prove_weights(made, source, changed(written, "head.bias", other)).failed


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_a_cast_is_held_to_rounding(source: StateDict, made: Plan, dtype: str) -> None:
    """With a cast every element must be the source's, rounded to nearest even; else it fails."""
    from porter.tensors.dtypes import DTYPES

    kind = DTYPES[dtype].numpy
    written = {
        name: LazyTensor.of(np.array(t.read()).astype(kind)) if t.dtype.is_float else t
        for name, t in made.apply(source).items()
    }
    assert prove_weights(made, source, written, dtype).holds
    assert prove_weights(made, source, written).failed
    bias = written["head.bias"].read().copy()
    bias.view(f"u{kind.itemsize}")[0] += 1
    written["head.bias"] = LazyTensor.of(bias)
    (problem,) = prove_weights(made, source, written, dtype).problems
    assert problem == "head.bias: 1 elements are not the source's, rounded"


def test_digests_of_a_cast_are_of_rounded_tensors(source: StateDict, made: Plan) -> None:
    """Equal ones are enough; where they differ the elements decide, and are counted."""
    written, _ = cast(made.apply(source), "fp16")
    rounded, _ = cast(source, "fp16")
    read = digests_of(rounded)
    back = digests_of(made.back(written))
    proof = prove_weights(made, source, written, "float16", digests=Returned(read, back))
    assert proof.holds
    assert proof.compared == len(back)
    bias = written["head.bias"].read().copy()
    bias.view("u2")[0] += 1
    other = {**written, "head.bias": LazyTensor.of(bias)}
    wrong = Returned(read, digests_of(made.back(other)))
    (problem,) = prove_weights(made, source, other, "float16", digests=wrong).problems
    assert problem == "head.bias: 1 elements are not the source's, rounded"
    plain = Returned(digests_of(source), back)
    assert prove_weights(made, source, written, digests=plain).failed


def test_swapped_tensors_are_found(source: StateDict, made: Plan) -> None:
    """Two tensors of one shape in each other's place fail, both named."""
    written = dict(made.apply(source))
    a, b = "block1.0.norm1.weight", "block1.0.norm2.weight"
    written[a], written[b] = written[b], written[a]
    proof = prove_weights(made, source, written)
    assert len(proof.problems) == 2


def test_nothing_compared_is_no_proof(made: Plan, source: StateDict) -> None:
    """An empty source proves nothing."""
    assert prove_weights(made, {}, made.apply(source)).failed
