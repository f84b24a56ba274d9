"""What every reference model offers besides its logits, the same in all families."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
import torch

from porter.zoo.architectures import all_variants, find

FRAMEWORKS = ("torch", "paddle")
TOKENS = {
    "shunted-t": 1, "pvtv2-b0": 1, "swin-tiny-w7-224": 49, "swin-tiny-relu-w7-224": 49,
    "cait-xxs24-224": 1 + 4, "vit-tiny-p16-224": 1 + 4, "vit-tiny-relu-224": 1 + 4,
    "deit-tiny-224": 1 + 4, "deit-tiny-distilled-224": 2 + 4, "vit-labml-cifar10": 1 + 64,
    "ceit-tiny-224": 1, "ceit-rishikksh20": 1 + 4, "ceit-rishikksh20-lca": 1,
    "vit-tiny-linformer-224": 1 + 4, "dwnet-tiny": 1, "dy-resnet18": 1, "pvt-tiny": 2,
    "deit3-small-224": 1 + 4, "pp-lcnet-x1_0-doc-ori": 1, "hgnet-v2-l": 1,
    "deit-small-rezero-224": 1 + 4, "deit-small-avgpool-224": 4, "ceit-tiny-nolca-224": 1 + 4,
}  # fmt: skip
"""Tokens before pooling of a small image; LCA leaves one."""
POOLED = {"shunted-t", "pvtv2-b0", "swin-tiny-w7-224", "swin-tiny-relu-w7-224"}
"""Variants whose head averages the tokens; the head of the others reads the class token."""
HEADS = {"dy-resnet18": ["fc"], "hgnet-v2-l": ["fc"],
         "vit-labml-cifar10": ["classification.linear2"],
         "ceit-rishikksh20": ["mlp_head.1"],
         "ceit-rishikksh20-lca": ["mlp_head.1"],
         "deit-tiny-distilled-224": ["head", "head_dist"]}  # fmt: skip


def image(variant: str, framework: str) -> Any:
    """Return two seeded images of the size that `small` takes."""
    shape = (2, 3, side(variant), side(variant))
    array = np.random.default_rng(2).standard_normal(shape).astype("float32")
    return torch.from_numpy(array) if framework == "torch" else paddle.to_tensor(array)


def small(twins: Any, variant: str, framework: str) -> Any:
    """Return a variant for small images, with three classes."""
    return twins.build(variant, framework, image_size=side(variant), num_classes=3)


def side(variant: str) -> int:
    """Return an image size in pixels; the maps of Swin's four stages need whole windows."""
    return 224 if "swin" in variant else 32


def test_every_model_class_is_in_these_tests() -> None:
    """A new reference model of a classifier comes with a line here."""
    there = [v for v in all_variants().values() if v.module and v.module != "pp_ocrv5_mobile"]
    assert {find(n).model for n in TOKENS} == {v.model for v in there}
    assert {find(n).module for n in TOKENS} == {v.module for v in there}


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("variant", TOKENS)
def test_features_are_tokens_and_the_head_pools_them(
    twins: Any, variant: str, framework: str
) -> None:
    """`forward_features` returns all tokens; `forward_head` computes the logits from them."""
    model = small(twins, variant, framework)
    model.eval()
    x = image(variant, framework)
    tokens = model.forward_features(x)
    assert (tokens.ndim, tokens.shape[:2]) == (3, type(tokens.shape)([2, TOKENS[variant]]))
    logits = model.forward_head(tokens)
    assert list(logits.shape) == [2, 3]
    assert (logits == model(x)).all()


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("variant", ["swin-tiny-w7-224", "vit-tiny-p16-224", "cait-xxs24-224"])
def test_the_head_reads_the_mean_or_the_class_token(
    twins: Any, variant: str, framework: str
) -> None:
    """Other tokens than the class token move the logits only where the head averages."""
    model = small(twins, variant, framework)
    model.eval()
    shape = [1, 5, model.head.weight.shape[1 if framework == "torch" else 0]]
    tokens = (torch if framework == "torch" else paddle).ones(shape)
    before = model.forward_head(tokens)
    tokens[:, 1:] = 2.0
    assert bool((model.forward_head(tokens) == before).all()) is (variant not in POOLED)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("variant", TOKENS)
def test_a_new_classifier_keeps_everything_else(twins: Any, variant: str, framework: str) -> None:
    """Only the head's tensors change, to another number of classes, dtype and names kept."""
    model = small(twins, variant, framework)
    model.to(dtype=torch.float64 if framework == "torch" else "float64")
    before = dict(model.state_dict())
    model.reset_classifier(7)
    after = dict(model.state_dict())
    assert list(after) == list(before)
    changed = {name for name in after if after[name] is not before[name]
               and list(after[name].shape) != list(before[name].shape)}  # fmt: skip
    heads = HEADS.get(variant, ["head"])
    assert changed == {f"{head}.{leaf}" for head in heads for leaf in ("weight", "bias")}
    assert all(after[name].dtype == before[name].dtype for name in changed)
    for head in heads:
        assert 0.01 < float(after[f"{head}.weight"].std()) < 0.03
        assert float(abs(after[f"{head}.bias"]).max()) == 0
    with pytest.raises(ValueError, match="at least 1"):
        model.reset_classifier(0)
