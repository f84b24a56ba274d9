"""What fresh or dead weights hide: small LayerScale, parameters without effect."""

from __future__ import annotations

import numpy as np

from porter.commands.verify import verify
from porter.frameworks.process import Pool
from porter.planning.plan import plan
from porter.planning.recognise import shapes_of
from porter.report.figures import blind_lines
from porter.tensors.state_dict import StateDict
from porter.verification.blind import unseen
from porter.verification.checks import BY_BYTES
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded

CAIT = find("cait-xxs24-224")


def test_a_parameter_without_effect_is_named() -> None:
    """A zero value or a zero gradient cannot be seen; one that moves the output can."""
    gradients = {"seen": np.ones(4), "dead": np.zeros(4), "zero": np.ones(4)}
    values = {"seen": np.ones(4), "dead": np.ones(4), "zero": np.zeros(4)}
    assert [b.name for b in unseen(gradients, values, 1.0, 1e-9)] == ["dead", "zero"]


def test_the_keys_part_of_a_fused_bias_is_named() -> None:
    """A third of `qkv.bias`, a half of `kv1.bias`; not where the keys move the output."""
    cancelled = np.array([1.0, 1.0, 0.0, 0.0, 1.0, 1.0])
    gradients = {
        "blocks.0.attn.qkv.bias": cancelled, "blocks.1.attn.qkv.bias": np.ones(6),
        "block1.0.attn.kv1.bias": np.array([0.0, 0.0, 1.0, 1.0]), "norm.bias": cancelled,
        "blocks.0.attn.qkv.weight": np.zeros((6, 2)), "blocks.2.attn.kv.bias": np.zeros(4),
    }  # fmt: skip
    found = unseen(gradients, {n: np.ones_like(g) for n, g in gradients.items()}, 1.0, 1e-9)
    assert [(b.name, b.part) for b in found] == [
        ("blocks.0.attn.qkv.bias", "keys"), ("block1.0.attn.kv1.bias", "keys"),
        ("blocks.0.attn.qkv.weight", ""), ("blocks.2.attn.kv.bias", ""),
    ]  # fmt: skip


def test_keys_parts_are_counted_as_proven_by_bytes() -> None:
    """A ViT's report names them, and runs no fuzzed weights for them."""
    vit = find("vit-tiny-p16-224")
    state = seeded(vit, num_classes=10, image_size=32)
    made = plan(vit, shapes_of(state), "torch", "paddle", image_size=32)
    verdict = verify(vit, state, made.apply(state), image_size=32, batch_sizes=(1,),
                     sensitivity=True)  # fmt: skip
    assert verdict.passed
    assert {b.name for b in verdict.blind} == {f"blocks.{i}.attn.qkv.bias" for i in range(12)}
    assert {(b.part, b.proof) for b in verdict.blind} == {("keys", BY_BYTES)}
    assert not verdict.fuzzed
    (line,) = blind_lines(verdict).values()
    assert line == (
        "the keys' part of 12 biases moves no output under softmax; proven by bytes:"
        " blocks.{0…11}.attn.qkv.bias"
    )


def fresh() -> dict[str, np.ndarray]:
    """CaiT as it is initialised: LayerScale at 1e-5 hides every branch from a bar of 1e-5."""
    state = seeded(CAIT, num_classes=10, image_size=32).arrays()
    return {
        name: np.full_like(array, 1e-5) if "gamma" in name else array
        for name, array in state.items()
    }


def test_faults_that_pass_at_1e_5_on_a_fresh_cait_are_caught() -> None:
    """Five faults fail by layers and bytes though no output shows them; the good port passes."""
    left = fresh()
    made = plan(CAIT, shapes_of(StateDict.of(left)), "torch", "paddle", image_size=32)
    a, b = "blocks.4.", "blocks.5."
    square, qkv = "blocks.3.attn.proj.weight", "blocks.3.attn.qkv.weight"
    norms = "blocks.2.norm1.weight", "blocks.2.norm2.weight"
    bias = "blocks.6.mlp.fc2.bias"
    q, k, v = np.split(left[qkv], 3)
    blocks = {n: left[b + n[len(a) :]] for n in left if n.startswith(a)}
    blocks |= {n: left[a + n[len(b) :]] for n in left if n.startswith(b)}
    faults = [
        {},
        {square: left[square].T.copy()},
        {qkv: np.concatenate([k, q, v])},
        {norms[0]: left[norms[1]], norms[1]: left[norms[0]]},
        {bias: np.zeros_like(left[bias])},
        blocks,
    ]
    with Pool() as pool:
        for fault in faults:
            right = made.apply(StateDict.of({**left, **fault}))
            verdict = verify(
                CAIT, StateDict.of(left), right, image_size=32, batch_sizes=(1,), pool=pool,
                per_layer=True, diagnose=False, grad=not fault,
            )  # fmt: skip
            assert verdict.failed is bool(fault), (list(fault)[:2], verdict.reason)
            layers = all(layer.passed for layer in verdict.layers)
            assert layers is not bool(fault)
            if fault:
                assert verdict.checks[-1].right.max_abs < 1e-5  # outputs alone would let it pass
            else:
                assert "blocks.3.attn.proj.weight" in {blind.name for blind in verdict.blind}
