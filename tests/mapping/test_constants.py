"""What an architecture computes is bit for bit what its models hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from porter.errors import TableError
from porter.frameworks.models import build
from porter.mapping.constants import FUNCTIONS, MASKED, constants
from porter.zoo.architectures import Architecture, all_variants, find

WITH = [v for v in all_variants().values() if v.table.constants]


def smallest_of_each() -> list[Architecture]:
    """Return the smallest variant of each family and model class that has constants."""
    found: dict[tuple[str, str], Architecture] = {}
    for variant in sorted(WITH, key=lambda v: v.parameters):
        if constants(variant.table.constants, variant.config, variant.image_size):
            found.setdefault((variant.family, variant.model), variant)
    return list(found.values())


def made(variant: Architecture, size: int | None = None) -> dict[str, np.ndarray]:
    return constants(variant.table.constants, variant.config, size or variant.image_size)


@pytest.mark.parametrize("framework", ["torch", "paddle"])
@pytest.mark.parametrize("variant", smallest_of_each(), ids=lambda v: v.name)
def test_constants_are_the_model_s_own(variant: Architecture, framework: str) -> None:
    """Names, dtypes, shapes and every element are those of the reference model's buffers."""
    shallow = variant
    if "depths" in variant.config:  # two blocks of a stage have every constant there is
        shallow = replace(variant, config={**variant.config, "depths": [2, 2, 2, 2]})
    model = build(shallow, framework)
    state = {name: value.detach().cpu().numpy() if framework == "torch" else value.numpy()
             for name, value in model.state_dict().items()}  # fmt: skip
    wanted = made(shallow)
    assert wanted
    for name, array in wanted.items():
        assert state[name].dtype == array.dtype, name
        np.testing.assert_array_equal(state[name], array, err_msg=name)
    ends = ("relative_position_index", "attn_mask")
    assert {name for name in state if name.endswith(ends)} == set(wanted)


def test_a_map_no_larger_than_its_window_has_neither_shift_nor_mask() -> None:
    """The last stage of Swin at 224 is one window of 7."""
    names = made(find("swin-tiny-w7-224"))
    assert "layers.2.blocks.1.attn_mask" in names
    assert not any(name.startswith("layers.3") and name.endswith("attn_mask") for name in names)
    assert names["layers.3.blocks.0.attn.relative_position_index"].shape == (49, 49)


def test_the_mask_parts_what_the_shift_brought_together() -> None:
    """It is symmetric, zero for a token and itself, and masks in the last windows alone."""
    mask = made(find("swin-tiny-w7-224"))["layers.0.blocks.1.attn_mask"]
    assert mask.shape == (64, 49, 49)
    np.testing.assert_array_equal(mask, mask.swapaxes(1, 2))
    assert set(np.unique(mask)) == {MASKED, 0}
    assert not mask[:, range(49), range(49)].any()
    assert not mask[0].any()
    assert mask[7].any()
    assert mask[56].any()


def test_the_index_is_of_the_offset() -> None:
    """Pairs of one offset have one row; there are (2w-1)² of them, the middle for no offset."""
    index = made(find("swin-tiny-w7-224"))["layers.0.blocks.0.attn.relative_position_index"]
    assert set(index.ravel()) == set(range(13 * 13))
    assert set(index.diagonal()) == {84}
    np.testing.assert_array_equal(index + index.T, 168)


def test_an_unknown_function_is_refused() -> None:
    """A table can name the functions that there are."""
    with pytest.raises(TableError, match="unknown constants 'eval'; known: "):
        constants("eval", {}, 224)
    assert constants("", {}, 224) == {}


def test_every_function_is_some_table_s() -> None:
    """No function is left behind without a family."""
    assert {v.table.constants for v in WITH} == set(FUNCTIONS)
