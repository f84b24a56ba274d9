"""Preprocessing by source: of the user, of the checkpoint, of the dialect, the canonical one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import porter
from porter.errors import InputError, UsageError
from porter.planning.preprocessing import chosen, labels_of
from porter.tensors.state_dict import Origin
from porter.verification.inputs import picture, representable
from porter.zoo.architectures import all_variants, find
from porter.zoo.preprocessing import Preprocessing, understood

SOURCES = [  # variant, dialect or alias, side resized to, squashed, interpolation, mean of red
    ("deit-base-384", "torch", 438, False, "bicubic", 0.485),
    ("deit-base-384", "timm", 384, False, "bicubic", 0.485),
    ("deit-tiny-224", "hf", 256, True, "bicubic", 0.485),
    ("deit3-small-224", "timm", 248, False, "bicubic", 0.485),
    ("deit3-small-224", "mmpretrain", 224, False, "bicubic", 0.485),
    ("swin-tiny-w7-224", "torch", 256, False, "bicubic", 0.485),
    ("swin-tiny-w7-224", "torchvision", 232, False, "bicubic", 0.485),
    ("swin-small-w7-224", "torchvision", 246, False, "bicubic", 0.485),
    ("swin-base-w7-224", "torchvision", 238, False, "bicubic", 0.485),
    ("swin-base-w12-384", "torch", 384, True, "bicubic", 0.485),
    ("swin-base-w12-384", "timm", 384, False, "bicubic", 0.485),
    ("swin-base-w12-384", "paddleclas", 438, False, "bicubic", 0.485),
    ("swin-base-w12-384", "mmpretrain", 384, True, "bicubic", 0.485),
    ("vit-base-p16-224", "torch", 248, False, "bicubic", 0.5),
    ("vit-base-p16-224", "google", 224, True, "bilinear", 0.5),
    ("vit-base-p16-224", "hf-v5", 224, True, "bilinear", 0.5),
    ("vit-base-p16-224", "torchvision-v1", 256, False, "bilinear", 0.485),
    ("vit-large-p16-224", "torchvision", 242, False, "bilinear", 0.485),
    ("vit-base-p16-384", "paddleclas", 384, False, "bilinear", 0.5),
    ("vit-small768-p16-224", "paddleclas", 256, False, "bilinear", 0.5),
    ("pvt-tiny", "ppim", 248, False, "bicubic", 0.485),
    ("pvtv2-b0", "timm", 248, False, "bicubic", 0.485),
    ("cait-xxs24-224", "timm", 224, False, "bicubic", 0.485),
]


@pytest.mark.parametrize(("variant", "dialect", "side", "squash", "how", "mean"), SOURCES)
def test_each_source_has_its_own(
    variant: str, dialect: str, side: int, squash: bool, how: str, mean: float
) -> None:
    """The figures are those of the source's evaluation, not those of another."""
    architecture = find(variant)
    found = chosen(architecture, dialect, None, architecture.image_size).how
    assert found.resize(architecture.image_size) == side
    assert (found.squash, found.interpolation, found.mean[0]) == (squash, how, mean)


def test_sources_are_dialects_or_aliases() -> None:
    """A name that no table has would never be used."""
    for variant in all_variants().values():
        known = {*variant.table.dialects, *variant.table.aliases}
        assert set(variant.preprocessings) <= known, variant.name


def test_what_a_checkpoint_states_comes_before_its_dialect(tmp_path: Path) -> None:
    """`preprocessor_config.json`, then `config.json`; a damaged one is passed over."""
    vit = find("vit-base-p16-224")
    origin = Origin(str(tmp_path / "model.safetensors"), "safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {
        "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5], "interpolation": "bilinear",
        "crop_pct": 0.95, "crop_mode": "squash",
    }}))  # fmt: skip
    how, why = chosen(vit, "hf", origin, 224)
    assert (how.mean, how.crop, how.squash) == ((0.1, 0.2, 0.3), 0.95, True)
    assert why == "config.json of the checkpoint"
    state = tmp_path / "preprocessor_config.json"
    body = {"image_mean": [0, 0, 0], "image_std": [1, 1, 1], "resample": 2, "size": 256,
            "crop_size": 224, "do_center_crop": True}  # fmt: skip
    state.write_text(json.dumps(body))
    how, why = chosen(vit, "hf", origin, 224)
    assert (how.mean, how.std, how.resize(224)) == ((0, 0, 0), (1, 1, 1), 256)
    assert why.startswith("preprocessor_config.json")
    state.write_text(json.dumps({"image_std": [0, 0, 0]}))
    assert chosen(vit, "hf", origin, 224).why == "config.json of the checkpoint"
    state.write_text("{")
    assert chosen(vit, "hf", origin, 224).why == "config.json of the checkpoint"


@pytest.mark.parametrize("kind", ["namespace", "dictionary"])
def test_arguments_of_the_training_are_read(kind: str, tmp_path: Path) -> None:
    """timm's and DeiT's arguments state crop and normalisation; what is None states nothing."""
    import torch

    stated = {"eval_crop_ratio": 0.95, "mean": (0.1, 0.2, 0.3), "std": None, "interpolation": ""}
    args = argparse.Namespace(**stated) if kind == "namespace" else stated
    torch.save({"model": {"w": torch.zeros(1)}, "args": args}, tmp_path / "a.pth")
    origin = porter.open(tmp_path / "a.pth").origin
    how, why = chosen(find("deit3-small-224"), "torch", origin, 224)
    assert (how.crop, how.mean, how.interpolation) == (0.95, (0.1, 0.2, 0.3), "bicubic")
    assert why == "the arguments in the checkpoint"


def test_the_user_comes_first(tmp_path: Path) -> None:
    """A file, then single fields; the reason names them."""
    vit = find("vit-base-p16-224")
    file = tmp_path / "mine.toml"
    file.write_text("mean = [0.0, 0.0, 0.0]\nstd = [1.0, 1.0, 1.0]\ncrop = 0.8\n")
    how, why = chosen(vit, "torch", None, 224, file=file, given={"crop": 0.5, "mean": None})
    assert (how.crop, how.mean, how.interpolation) == (0.5, (0, 0, 0), "bicubic")
    assert why == "--crop, given; else mine.toml, given"


@pytest.mark.parametrize("given", [{"mean": (1, 2)}, {"std": 0}, {"crop": 1.5}, {"crop": 0},
                                   {"interpolation": "cubic"}, {"mean": "x"}])  # fmt: skip
def test_values_that_cannot_be_are_refused(given: dict[str, object]) -> None:
    """One line names the field."""
    with pytest.raises(UsageError, match=next(iter(given))):
        chosen(find("pvt-tiny"), "torch", None, 224, given=given)


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": 1}'])
def test_a_file_that_states_nothing_is_refused(text: str, tmp_path: Path) -> None:
    """The fields that are expected are named."""
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError):
        chosen(find("pvt-tiny"), "torch", None, 224, file=tmp_path / "a.json")


def test_what_is_written_is_understood() -> None:
    """The metadata of an export state all fields in which two sources differ."""
    for variant in all_variants().values():
        for how in (variant.preprocessing, *variant.preprocessings.values()):
            size = variant.image_size
            again = variant.preprocessing.changed(understood(how.as_dict(size), size))
            assert again == how


CHANNELS = [  # variant, dialect, order, mean of red
    ("pp-ocrv5-server-det", "train", "BGR", 0.406), ("pp-ocrv6-tiny-det", "hf", "BGR", 0.406),
    ("pp-ocrv5-mobile-rec", "train", "BGR", 0.5), ("pp-ocrv5-mobile-rec", "hf", "RGB", 0.5),
    ("pp-ocrv6-small-rec", "hf", "BGR", 0.5), ("slanet", "paddlex", "BGR", 0.406),
    ("slanet", "hf", "RGB", 0.485), ("uvdoc", "hf", "BGR", 0.0),
    ("pp-lcnet-x1_0-doc-ori", "train", "RGB", 0.485), ("pp-lcnet-x1_0-doc-ori", "hf", "BGR", 0.406),
    ("pp-doclayoutv3", "hf", "RGB", 0.0), ("hgnet-v2-l", "hf", "RGB", 0.485),
]  # fmt: skip


@pytest.mark.parametrize(("variant", "dialect", "order", "mean"), CHANNELS)
def test_colours_are_in_the_order_of_the_source(
    variant: str, dialect: str, order: str, mean: float, tmp_path: Path
) -> None:
    """A red picture is in the first channel of RGB and in the last of BGR, with its own mean."""
    Image.new("RGB", (64, 48), (255, 0, 0)).save(tmp_path / "red.png")
    architecture = find(variant)
    how = chosen(architecture, dialect, None, architecture.image_size).how
    image = picture(tmp_path / "red.png", how, (48, 64))[0, :, 0, 0]
    red = 0 if order == "RGB" else 2
    assert how.channels == order
    assert how.mean[red] == mean
    assert image.argmax() == red
    assert image[red] == pytest.approx((1 - mean) / how.std[red])
    assert ("channels BGR" in how.described(48)) == (order == "BGR")


@pytest.mark.parametrize("name", ["PPLCNetImageProcessor", "UVDocImageProcessorFast"])
def test_processors_that_give_blue_first_normalise_before(name: str) -> None:
    """What they state is of red, green and blue; what porter states is in the model's order."""
    stated = {"image_processor_type": name, "image_mean": [0.1, 0.2, 0.3]}
    assert understood(stated, 224) == {"mean": (0.3, 0.2, 0.1), "channels": "BGR"}
    stated["image_processor_type"] = "CLIPImageProcessor"
    assert understood(stated, 224) == {"mean": [0.1, 0.2, 0.3], "channels": "RGB"}


def test_a_line_of_text_is_padded_with_zeros(tmp_path: Path) -> None:
    """Its height is the input's; what is left of the width is zero after normalising."""
    Image.new("RGB", (96, 24), "white").save(tmp_path / "line.png")
    how = find("pp-ocrv6-small-rec").preprocessing
    image = picture(tmp_path / "line.png", how, (48, 320))
    assert image.shape == (1, 3, 48, 320)
    assert (image[..., :192] == 1).all()
    assert not image[..., 192:].any()
    table = picture(tmp_path / "line.png", find("slanet").preprocessing, 488)
    assert table[0, 0, 121, 487] != 0
    assert not table[0, :, 122:].any()


def test_labels_next_to_a_checkpoint_are_found(tmp_path: Path) -> None:
    """Names, but not the placeholders of transformers."""
    origin = Origin(str(tmp_path / "model.safetensors"), "safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"1": "dog", "0": "cat"}}))
    assert labels_of(origin) == ["cat", "dog"]
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "LABEL_0"}}))
    assert labels_of(origin) == []


def test_a_picture_is_squashed_or_cropped(tmp_path: Path) -> None:
    """A wide picture with a border keeps it when squashed and loses it in the crop."""
    pixels = np.full((40, 80, 3), 255, np.uint8)
    pixels[:, :10] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    plain = Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "nearest", 1.0)
    whole = picture(tmp_path / "a.png", plain._replace(squash=True), 40)
    middle = picture(tmp_path / "a.png", plain, 40)
    assert whole[0, 0, 0, :5].max() == 0
    assert middle.min() == 1


def test_without_antialiasing_pixels_are_between_their_neighbours(tmp_path: Path) -> None:
    """Halving stripes of one pixel: the mean with antialiasing, two pixels' mean without."""
    row = np.array([0, 0, 255, 255, 0, 0, 255, 255], np.uint8)
    Image.fromarray(np.tile(row[None, :, None], (8, 1, 3))).save(tmp_path / "a.png")
    plain = Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear", 1.0)
    sharp = picture(tmp_path / "a.png", plain._replace(antialias=False), 4)[0, 0, 0]
    np.testing.assert_allclose(sharp, [0, 1, 0, 1])
    smooth = picture(tmp_path / "a.png", plain, 4)[0, 0, 0]
    assert 0 < smooth[0] < smooth[1] < 1


def test_representable_inputs_are_bytes() -> None:
    """Normalised back, each value is a whole number of 0 to 255, and bytes stay as they are."""
    how = find("swin-tiny-w7-224").preprocessing
    drawn = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    inputs = representable(drawn, how)
    pixels = (inputs * np.reshape(how.std, (3, 1, 1)) + np.reshape(how.mean, (3, 1, 1))) * 255
    np.testing.assert_allclose(pixels, np.rint(pixels), atol=1e-3)
    np.testing.assert_array_equal(representable(inputs, how), inputs)
    assert np.abs(inputs - drawn).mean() < 0.5


@pytest.mark.parametrize("size", [(300, 40), (30, 50), (2000, 90)])
def test_a_formula_is_cut_out_and_centred(size: tuple[int, int], tmp_path: Path) -> None:
    """As PaddleOCR does it: shorter side, thumbnail, a black border; greys for Paddle's weights."""
    how = find("pp-formulanet-l").preprocessings["hf"]
    ink = np.full((size[1], size[0], 3), 250, np.uint8)
    ink[10:30:2, 5:-9] = (200, 20, 90)
    Image.fromarray(ink).save(tmp_path / "f.png")
    found = picture(tmp_path / "f.png", how, 768)
    wanted = Image.fromarray(ink).crop((5, 10, size[0] - 9, 29))
    scale = 768 / min(wanted.size)
    wanted = wanted.resize([int(side * scale + 1e-9) for side in wanted.size], 2)
    wanted.thumbnail((768, 768))
    left, top = (768 - wanted.width) // 2, (768 - wanted.height) // 2
    inside = found[0, :, top : top + wanted.height, left : left + wanted.width]
    pixels = (inside * 0.1738 + 0.7931) * 255
    assert np.abs(pixels - np.asarray(wanted, float).transpose(2, 0, 1)).max() < 1e-3
    assert (found[0, :, :, :left] == np.float32(-0.7931 / 0.1738)).all()
    grey = picture(tmp_path / "f.png", find("pp-formulanet-l").preprocessing, 768)
    assert (grey[0, 0] == grey[0, 2]).all()
    shares = np.array([0.299, 0.587, 0.114])
    assert np.abs(grey[0, 0] - np.tensordot(shares, found[0], 1)).max() < 1e-5
    assert "margin cut off, longer side 768 px, centred on 768 × 768 px" in how.described(768)
