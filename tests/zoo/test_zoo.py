"""The zoo is whole: every family, variant and dialect that porter promises, and its twins alike."""

from __future__ import annotations

import ast
from math import prod
from pathlib import Path

import numpy as np
import pytest

from porter.errors import UsageError
from porter.planning.check import check
from porter.planning.endpoint import spellings
from porter.tensors.dtypes import DTYPES
from porter.zoo.architectures import all_variants, families, find
from porter.zoo.seeded import seeded

ROOT = Path(__file__).resolve().parents[2]

PADDLEOCR = "torch torch:hf paddle paddle:paddlex paddle:train"
FAMILIES = {
    "shunted": ("shunted-t shunted-s shunted-b", "torch paddle"),
    "ceit": (
        "ceit-tiny-224 ceit-small-224 ceit-base-224 ceit-tiny-384 ceit-small-384 "
        + " ".join(f"ceit-tiny-i2t-{part}-224" for part in ("k7s4", "k5s4", "k3s2", "nonorm"))
        + " ceit-tiny-leff-k1-224 ceit-tiny-leff-k5-224 ceit-tiny-leff-nonorm-224"
        + " ceit-tiny-nolca-224",
        "torch paddle",
    ),
    "ceit-rishikksh20": ("ceit-rishikksh20 ceit-rishikksh20-lca", "torch paddle"),
    "cait": (
        "cait-xxs24-224 cait-xxs24-384 cait-xxs36-224 cait-xxs36-384 cait-xs24-384 cait-s24-224"
        " cait-s24-384 cait-s36-384 cait-m36-384 cait-m48-448"
        " deit-small-layerscale-224 deit-small-avgpool-224 "
        + " ".join(
            f"deit-small-{form}{norm}-224"
            for form in ("rezero", "skipinit", "fixup")
            for norm in ("", "-norm")
        )
        + " "
        + " ".join(f"deit-small-class{block}-224" for block in (2, 4, 8, 10, 11)),
        "torch paddle paddle:paddlevit torch:timm paddle:ppim paddle:passl",
    ),
    "vit": (
        " ".join(f"vit-{s}-p16-{n}" for s in ("tiny", "small", "base", "large") for n in (224, 384))
        + " "
        + " ".join(f"vit-{s}-p32-{n}" for s in ("small", "base", "large") for n in (224, 384))
        + " vit-huge-p14-224 vit-base-p8-224 vit-small-gap-p16-224 vit-base-gap-p16-224"
        " vit-small768-p16-224 vit-tiny-r-s16-p8-224 vit-small-r26-s32-224 vit-base-r50-s16-224"
        " vit-base-r50-s16-384",
        "torch paddle numpy:google torch:hf torch:torchvision paddle:paddlevit paddle:paddleclas"
        " torch:timm torch:mmpretrain paddle:passl",
    ),
    "vit-labml": ("vit-labml-cifar10", "torch paddle"),
    "deit": (
        "deit-tiny-224 deit-small-224 deit-base-224 deit-base-384 deit-tiny-distilled-224"
        " deit-small-distilled-224 deit-base-distilled-224 deit-base-distilled-384",
        "torch paddle torch:hf paddle:paddlevit paddle:paddleclas torch:timm torch:mmpretrain"
        " paddle:ppim",
    ),
    "deit3": (
        "deit3-small-224 deit3-small-384 deit3-medium-224 deit3-base-224 deit3-base-384"
        " deit3-large-224 deit3-large-384 deit3-huge-224",
        "torch torch:timm torch:mmpretrain paddle",
    ),
    "interpret-vit": (
        "vit-tiny-softmax-224 swin-tiny-softmax-norel-w7-224 "
        + " ".join(
            f"{model}-{form}{relative}-{size}"
            for model, size in (("vit-tiny", "224"), ("swin-tiny", "w7-224"))
            for form in ("relu", "layernorm", "relumean", "depthwise")
            for relative in ("", "-norel")
        ),
        "torch paddle",
    ),
    "linformer": (
        " ".join(f"vit-tiny-linformer-{n}224" for n in ("", "sharekv-", "onekv-", "perhead-")),
        "torch torch:lucidrains torch:tatp22 paddle",
    ),
    "dwnet": (
        " ".join(
            f"{form}dwnet-{size}"
            for form in ("", "dynamic-", "i-dynamic-")
            for size in ("tiny", "base")
        ),
        "torch paddle",
    ),
    "dy-resnet": ("dy-resnet18 dy-resnet50", "torch paddle"),
    "swin": (
        "swin-tiny-w7-224 swin-small-w7-224 swin-base-w7-224 swin-large-w7-224 swin-base-w12-384"
        " swin-large-w12-384",
        "torch torch:timm torch:hf torch:torchvision torch:mmpretrain paddle paddle:paddlevit"
        " paddle:paddleclas paddle:ppim paddle:passl",
    ),
    "pvt": ("pvt-tiny pvt-small pvt-medium pvt-large", "torch torch:hf paddle paddle:ppim"),
    "pvtv2": (
        "pvtv2-b0 pvtv2-b1 pvtv2-b2 pvtv2-b3 pvtv2-b4 pvtv2-b5 pvtv2-b2-li",
        "torch torch:timm torch:hf paddle paddle:paddleclas paddle:paddlevit",
    ),
    "pp-lcnet": (
        "pp-lcnet-x1_0-doc-ori pp-lcnet-x1_0-table-cls pp-lcnet-x0_25-textline-ori"
        " pp-lcnet-x1_0-textline-ori",
        PADDLEOCR,
    ),
    "hgnet-v2": ("hgnet-v2-l", PADDLEOCR),
    "pp-ocrv5-mobile-det": ("pp-ocrv5-mobile-det", PADDLEOCR),
    "pp-ocrv5-server-det": ("pp-ocrv5-server-det", PADDLEOCR),
    "pp-ocrv5-mobile-rec": ("pp-ocrv5-mobile-rec", PADDLEOCR),
    "pp-ocrv5-server-rec": ("pp-ocrv5-server-rec", PADDLEOCR),
    "pp-ocrv6-small-det": ("pp-ocrv6-tiny-det pp-ocrv6-small-det", PADDLEOCR),
    "pp-ocrv6-medium-det": ("pp-ocrv6-medium-det", PADDLEOCR),
    "pp-ocrv6-rec": ("pp-ocrv6-small-rec pp-ocrv6-medium-rec", PADDLEOCR),
    "pp-ocrv6-tiny-rec": ("pp-ocrv6-tiny-rec", PADDLEOCR),
    "rt-detr": (
        "rt-detr-l-wired-table-cell-det rt-detr-l-wireless-table-cell-det pp-doclayout-plus-l"
        " pp-docblocklayout",
        PADDLEOCR,
    ),
    "pp-doclayoutv2": ("pp-doclayoutv2", PADDLEOCR),
    "pp-doclayoutv3": ("pp-doclayoutv3", PADDLEOCR),
    "slanet": ("slanet slanet-plus", PADDLEOCR),
    "slanext": ("slanext-wired slanext-wireless", PADDLEOCR),
    "uvdoc": ("uvdoc", PADDLEOCR),
    "pp-formulanet": (
        "pp-formulanet-l pp-formulanet-plus-l pp-formulanet-l-shallow pp-formulanet-plus-l-shallow",
        PADDLEOCR,
    ),
}
"""{family: (variants, what `--from` and `--to` take)}"""


def test_the_families_are_those_promised() -> None:
    """No family or variant is missing, and none is unlisted."""
    found = {name: {v.name for v in variants} for name, variants in families().items()}
    assert found == {name: set(names.split()) for name, (names, _) in FAMILIES.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_dialects_are_there(family: str) -> None:
    """Every dialect promised for a family can be named."""
    said = {spelling.partition(" ")[0] for spelling in spellings(families()[family][0].table)}
    assert said >= set(FAMILIES[family][1].split())


def test_every_table_is_proven() -> None:
    """Each dialect of each variant is total and exact, both ways."""
    failed = [proof for proof in check(all_variants().values()) if not proof.holds]
    assert not failed


@pytest.mark.parametrize("name", all_variants())
def test_parameter_counts_follow_from_the_skeleton(name: str) -> None:
    """The stated number of parameters is the sum over the tensors that are no buffers."""
    variant = find(name)
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    bound = variant.skeleton().bind(variant.symbols())
    count = sum(
        prod(shape)
        for tensor, (dtype, shape) in bound.items()
        if DTYPES[dtype].is_float and not tensor.endswith(buffers)
    )
    assert count == variant.parameters


def test_aliases_resolve_and_are_unambiguous() -> None:
    """Official and timm names lead to one variant each, in either spelling."""
    owners: dict[str, str] = {}
    for variant in all_variants().values():
        for alias in (variant.name, *variant.aliases):
            key = alias.lower().replace("_", "-")
            assert owners.setdefault(key, variant.name) == variant.name
            assert find(alias) is variant
            assert find(alias.upper()) is variant
    for alias in ("cait_xxs24_224", "vit_base_patch16_224", "shunted_s", "ceit_tiny_patch16_224"):
        assert find(alias)
    assert find("cait_XXS24").name == "cait-xxs24-384"  # the official code calls 224 cait_XXS24_224


def test_an_unknown_name_suggests_the_nearest() -> None:
    """A slip of the finger is answered with what was meant."""
    with pytest.raises(UsageError, match="swin-tiny-w7-224"):
        find("swin-tinny-w7-224")


def outline(path: Path) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """Return classes, their methods and the attributes that these set, in order."""
    found = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            methods = [
                (f.name, [a.attr for a in ast.walk(f) if _is_set(a)])
                for f in node.body
                if isinstance(f, ast.FunctionDef)
            ]
            found.append((node.name, methods))
    return found


def _is_set(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    )


TWINS = sorted(p.name for p in (ROOT / "reference_models" / "torch").glob("[a-z]*.py"))


@pytest.mark.parametrize("name", [n for n in TWINS if n != "layers.py"])
def test_twins_are_alike(name: str) -> None:
    """Both files have the same classes, methods and attributes, in the same order."""
    torch_side, paddle_side = (
        outline(ROOT / "reference_models" / side / name) for side in ("torch", "paddle")
    )
    assert torch_side == paddle_side


def test_every_twin_serves_a_family() -> None:
    """No model file is left over, and none is missing."""
    used = {f"{variant.module}.py" for variant in all_variants().values() if variant.module}
    assert used | {"layers.py"} == set(TWINS)
    assert {p.name for p in (ROOT / "reference_models" / "paddle").glob("[a-z]*.py")} == set(TWINS)


def test_tensors_that_a_dialect_has_as_one_are_seeded_alike() -> None:
    """Otherwise the same seed would be another model in the naming that has only one of them."""
    state = seeded(find("pp-doclayoutv3"))
    for one, other in (("decoder.class_embed", "enc_score_head"),
                       ("decoder.bbox_embed.layers.1", "enc_bbox_head.layers.1")):  # fmt: skip
        pair = [state[f"model.{name}.weight"].read() for name in (one, other)]
        assert np.array_equal(*pair)
    assert not np.array_equal(
        *(state[f"model.enc_bbox_head.layers.{n}.bias"].read() for n in (0, 1))
    )
