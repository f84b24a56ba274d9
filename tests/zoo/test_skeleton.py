"""Skeleton files: folding is exact, and what they say is what the models have."""

from __future__ import annotations

from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from porter.zoo import skeleton
from porter.zoo.architectures import all_variants
from porter.zoo.skeleton import Skeleton, SkeletonTensor

names = st.lists(
    st.from_regex(
        r"(block[1-3]\.[0-3]|layers\.[0-2]\.blocks\.[0-2]|norm[12])\.[ab]", fullmatch=True
    ),
    unique=True,
    max_size=40,
)


@given(names, st.randoms())
def test_folding_is_exact(found: list[str], random: object) -> None:
    """Whatever the names, rendering and parsing give the skeleton back, in order."""
    entries = tuple(
        SkeletonTensor(name, "float32", (4, "classes") if i % 3 else (len(name),))
        for i, name in enumerate(found)
    )
    made = Skeleton(entries)
    assert skeleton.parse(skeleton.render(made, "test")) == made


def test_constants_and_features_are_kept() -> None:
    """Marks survive the file."""
    made = Skeleton(
        (
            SkeletonTensor("mask", constant=True),
            SkeletonTensor("x.weight", "float32", (2, 2), feature="more"),
        )
    )
    assert skeleton.parse(skeleton.render(made, "test")) == made
    assert made.bind({}) == {}
    assert made.bind({}, ["more"]) == {"x.weight": ("float32", (2, 2))}


def test_a_broken_line_is_named() -> None:
    """A line with a name and nothing else is an error that shows it."""
    with pytest.raises(ValueError, match=r"head\.weight"):
        skeleton.parse("head.weight")


def test_every_variant_has_its_skeletons() -> None:
    """No variant is without its tensors, and no file without its variant; twins have both."""
    folder = resources.files("porter.reference_models") / "skeletons"
    files = {f.name for f in folder.iterdir() if f.name.endswith(".txt")}
    variants = all_variants().values()
    wanted = {f"{v.skeleton_of or v.name}.torch.txt" for v in variants}
    wanted |= {f"{v.skeleton_of or v.name}.paddle.txt" for v in variants if v.module}
    assert files == wanted


def test_a_size_may_follow_from_a_symbol() -> None:
    """`classes+1` is one more than the classes, whatever their number."""
    made = skeleton.parse("x.weight float32 classes+1 4")
    assert made.symbols == {"classes"}
    assert made.bind({"classes": 9}) == {"x.weight": ("float32", (10, 4))}
