"""Adapting: positions are resized as torch resizes pictures, heads are drawn anew."""

from __future__ import annotations

import numpy as np
import pytest

from porter.errors import UsageError
from porter.planning.adapt import RESIZES, adapt, bicubic, other_windows
from porter.tensors.lazy import LazyTensor
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded

VIT = find("vit-tiny-p16-224")


@pytest.mark.parametrize("mode", RESIZES)
@pytest.mark.parametrize(("before", "after"), [(14, 24), (24, 14), (7, 7), (3, 16), (14, 1)])
def test_positions_are_resized_as_by_torch(before: int, after: int, mode: str) -> None:
    """`interpolate(mode=…, align_corners=False)` in float64 gives the same numbers."""
    import torch

    grid = np.random.default_rng(0).standard_normal((before, before, 5))
    picture = torch.from_numpy(grid).permute(2, 0, 1)[None]
    size = (after, after)
    wanted = torch.nn.functional.interpolate(picture, size, mode=mode, align_corners=False)
    weights = RESIZES[mode](before, after)
    found = np.einsum("ai,bj,ijc->abc", weights, weights, grid)
    # largest difference measured: 4e-15
    np.testing.assert_allclose(found, wanted[0].permute(1, 2, 0).numpy(), rtol=0, atol=1e-13)


def test_weights_of_a_row_sum_to_one() -> None:
    """A constant table stays constant, whatever the edge."""
    for sizes in ((14, 24), (24, 14), (2, 9)):
        np.testing.assert_allclose(bicubic(*sizes).sum(1), 1, rtol=0, atol=1e-14)


def test_one_size_keeps_every_bit() -> None:
    """Resizing to the same size is the identity."""
    np.testing.assert_array_equal(bicubic(14, 14), np.eye(14))


def test_a_position_embedding_keeps_its_prefix() -> None:
    """The class token's position is not resized; the others are, as a picture."""
    import torch

    state = seeded(VIT)
    found, changes = adapt(VIT, state, image_size=384)
    old, new = state["pos_embed"].read(), found["pos_embed"].read()
    assert new.shape == (1, 577, 192)
    assert new.dtype == np.float32
    assert new[:, :1].tobytes() == old[:, :1].tobytes()
    grid = torch.from_numpy(old[:, 1:]).reshape(1, 14, 14, 192).permute(0, 3, 1, 2)
    wanted = torch.nn.functional.interpolate(
        grid, (24, 24), mode="bicubic", align_corners=False
    ).permute(0, 2, 3, 1)
    # torch computes in float32; largest difference measured: 5e-7
    np.testing.assert_allclose(new[:, 1:], wanted.reshape(1, 576, 192), rtol=0, atol=3e-6)
    assert changes == ["pos_embed: 197 positions became 577, bicubic"]


def test_every_table_of_a_pyramid_is_resized() -> None:
    """PVT has a table for each stage, and its code resizes them bilinearly."""
    variant = find("pvt-tiny")
    found, changes = adapt(variant, seeded(variant), image_size=384)
    assert [found[f"pos_embed{n}"].shape[1] for n in (1, 2, 3, 4)] == [9216, 2304, 576, 145]
    assert changes[3] == "pos_embed4: 50 positions became 145, bilinear"


def test_a_head_is_drawn_anew_and_nothing_else() -> None:
    """Weights of the new head are small and seeded, its bias is zero; the rest is untouched."""
    state = seeded(VIT)
    found, changes = adapt(VIT, state, num_classes=7, seed=3)
    assert found["head.weight"].shape == (7, 192)
    assert 0.015 < found["head.weight"].read().std() < 0.025
    assert not found["head.bias"].read().any()
    again, _ = adapt(VIT, state, num_classes=7, seed=3)
    assert again["head.weight"].read().tobytes() == found["head.weight"].read().tobytes()
    other, _ = adapt(VIT, state, num_classes=7, seed=4)
    assert other["head.weight"].read().tobytes() != found["head.weight"].read().tobytes()
    assert [name for name in state if found[name] is not state[name]] == [
        "head.weight", "head.bias"
    ]  # fmt: skip
    assert len(changes) == 2


def test_every_head_of_a_distilled_model_is_drawn() -> None:
    """Two heads have classes, so two are changed."""
    variant = find("deit-tiny-distilled-224")
    _, changes = adapt(variant, seeded(variant), num_classes=5)
    assert len(changes) == 4


def test_what_is_asked_for_and_there_already_changes_nothing() -> None:
    """The same classes and size leave every tensor as it is."""
    state = seeded(VIT)
    found, changes = adapt(VIT, state, num_classes=1000, image_size=224)
    assert changes == []
    assert all(found[name] is state[name] for name in state)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_the_dtype_stays(dtype: str) -> None:
    """A half-precision checkpoint is adapted as one."""
    state = dict(seeded(VIT))
    for name in ("pos_embed", "head.weight", "head.bias"):
        state[name] = LazyTensor.of(state[name].read().astype(dtype))
    found, _ = adapt(VIT, state, num_classes=3, image_size=384)
    for name in ("pos_embed", "head.weight", "head.bias"):
        assert found[name].dtype.name == dtype
        assert found[name].read().dtype == np.dtype(dtype)


def test_positions_that_are_no_square_are_refused() -> None:
    """There is no telling their height from their width."""
    state = dict(seeded(VIT))
    state["pos_embed"] = LazyTensor.of(np.zeros((1, 1 + 6, 192), np.float32))
    with pytest.raises(UsageError, match="not square"):
        adapt(VIT, state, image_size=224)


def test_windows_of_another_size_get_resized_tables() -> None:
    """Swin's tables for windows of 7 become those of windows of 12, as torch resizes them."""
    small, large = find("swin-base-w7-224"), find("swin-base-w12-384")
    assert other_windows(large) == [small]
    import torch

    state = seeded(small)
    found, changes = adapt(large, state)
    assert changes == ["24 tables of relative positions: windows of 7 became 12, bicubic"]
    name = "layers.1.blocks.0.attn.relative_position_bias_table"
    old, new = state[name].read(), found[name].read()
    grid = torch.from_numpy(old.reshape(13, 13, 8)).permute(2, 0, 1)[None].double()
    wanted = torch.nn.functional.interpolate(grid, size=(23, 23), mode="bicubic")[0]
    assert new.shape == (529, 8)
    assert np.abs(new.reshape(23, 23, 8) - wanted.permute(1, 2, 0).numpy()).max() < 1e-6
    assert other_windows(find("swin-tiny-w7-224")) == []


def test_a_window_that_fits_another_variant_is_named() -> None:
    """384 px do not suit windows of 7: the variant with windows of 12 is named."""
    with pytest.raises(UsageError, match="convert to swin-base-w12-384 with --adapt"):
        find("swin-base-w7-224").symbols(image_size=384)


def test_positions_of_a_picture_that_is_not_square_are_resized_as_by_torch() -> None:
    """There and to another such size, the former one being known; as many positions may differ."""
    import torch

    state = seeded(VIT)
    wide, changes = adapt(VIT, state, image_size=(128, 448))
    assert changes == ["pos_embed: 197 positions became 225 (8 × 28), bicubic"]
    tall, _ = adapt(VIT, wide, image_size=(448, 128), source_size=(128, 448))
    for found, old, sizes in ((wide, state, ((14, 14), (8, 28))), (tall, wide, ((8, 28), (28, 8)))):
        grid = torch.from_numpy(old["pos_embed"].read()[:, 1:].astype(np.float64))
        picture = grid.reshape(1, *sizes[0], 192).permute(0, 3, 1, 2)
        wanted = torch.nn.functional.interpolate(picture, sizes[1], mode="bicubic")
        flat = wanted.permute(0, 2, 3, 1).reshape(1, -1, 192)
        # rounding to float32; largest difference measured: 1e-7
        np.testing.assert_allclose(found["pos_embed"].read()[:, 1:], flat, rtol=0, atol=3e-7)
    with pytest.raises(UsageError, match="not square"):
        adapt(VIT, tall, image_size=224)
