"""`--to hf`: the folder has what transformers' `from_pretrained` reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import porter
from porter import codecs
from porter.commands import snapshot
from porter.errors import InputError, UsageError

# What the configuration classes of transformers 4.57 take, without those of every model.
# fmt: off
FIELDS = {
    "vit": "hidden_size num_hidden_layers num_attention_heads intermediate_size patch_size"
           " encoder_stride",
    "deit": "hidden_size num_hidden_layers num_attention_heads intermediate_size patch_size"
            " encoder_stride",
    "swin": "embed_dim depths num_layers num_heads window_size patch_size mlp_ratio hidden_size"
            " use_absolute_embeddings encoder_stride",
    "pvt": "num_encoder_blocks depths sequence_reduction_ratios hidden_sizes patch_sizes strides"
           " num_attention_heads mlp_ratios num_labels",
    "pvt_v2": "num_encoder_blocks depths sr_ratios hidden_sizes patch_sizes strides"
              " num_attention_heads mlp_ratios linear_attention",
}
COMMON = (
    "architectures model_type num_channels hidden_act hidden_dropout_prob"
    " attention_probs_dropout_prob initializer_range qkv_bias layer_norm_eps image_size"
    " drop_path_rate id2label label2id torch_dtype"
)
CASES = {
    "vit-tiny-p16-224": ("vit", "ViTForImageClassification", "vit.encoder.layer.11."),
    "deit-tiny-224": ("vit", "ViTForImageClassification", "vit.encoder.layer.11."),
    "deit-tiny-distilled-224": (
        "deit", "DeiTForImageClassificationWithTeacher", "deit.encoder.layer.11."),
    "swin-tiny-w7-224": ("swin", "SwinForImageClassification", "swin.encoder.layers.3.blocks.1."),
    "pvt-tiny": ("pvt", "PvtForImageClassification", "pvt.encoder.block.3.1."),
    "pvtv2-b0": ("pvt_v2", "PvtV2ForImageClassification", "pvt_v2.encoder.layers.3.blocks.1."),
    "pvtv2-b2-li": ("pvt_v2", "PvtV2ForImageClassification", "pvt_v2.encoder.layers.2.blocks.5."),
}
# fmt: on


def convert(name: str, folder: Path, **options: Any) -> Path:
    """Write seeded weights of few classes as a folder; returns it."""
    given = folder / f"{name}.pth"
    porter.init(name, given, to="torch", num_classes=5)
    output = folder / "out"
    porter.convert(name, given, output, from_="torch", to="hf", verify=False, **options)
    return output


@pytest.mark.parametrize("name", CASES)
def test_folder_has_what_transformers_needs(name: str, tmp_path: Path) -> None:
    """The fields of the configuration class, the classes, the names of the weights, the sizes."""
    kind, model, layer = CASES[name]
    output = convert(name, tmp_path)
    names = {file.name for file in output.iterdir()}
    assert names == {
        "config.json",
        "preprocessor_config.json",
        "model.safetensors",
        "model.safetensors.porter.json",
    }
    config = json.loads((output / "config.json").read_text())
    assert set(config) == {*FIELDS[kind].split(), *COMMON.split()}
    assert (config["model_type"], config["architectures"]) == (kind, [model])
    assert config["image_size"] == 224
    assert config["label2id"] == {f"LABEL_{n}": n for n in range(5)}
    assert config["id2label"] == {str(n): f"LABEL_{n}" for n in range(5)}
    state = codecs.read(str(output / "model.safetensors"))
    assert any(tensor.startswith(layer) for tensor in state)
    assert state.origin is not None
    assert state.origin.metadata["format"] == "pt"
    widths = config.get("hidden_sizes", [config.get("hidden_size")])
    classifier = "cls_classifier" if kind == "deit" else "classifier"
    assert state[f"{classifier}.weight"].shape == (5, widths[-1])
    picture = json.loads((output / "preprocessor_config.json").read_text())
    assert picture["crop_size"] == {"height": 224, "width": 224}
    assert picture["size"] == {"shortest_edge": 248 if name.startswith("vit") else 256}
    assert (len(picture["image_mean"]), picture["resample"]) == (3, 3)
    assert picture["rescale_factor"] * 255 == 1


def test_folder_comes_back_bit_for_bit(tmp_path: Path) -> None:
    """The folder is an input, recognised by its content, and proven as it is written."""
    given = tmp_path / "a.pth"
    porter.init("pvtv2-b0", given, to="torch")
    output = tmp_path / "out"
    outcome = porter.convert("pvtv2-b0", given, output, from_="torch", to="hf", python={})
    assert outcome.ok
    assert outcome.output == str(output / "model.safetensors")
    back = tmp_path / "back.pth"
    porter.convert(None, output, back, verify=False, to="torch")
    one, two = codecs.read(str(given)), codecs.read(str(back))
    assert {n: t.read().tobytes() for n, t in one.items()} == {
        n: t.read().tobytes() for n, t in two.items()
    }


def test_large_weights_are_cut_into_shards(tmp_path: Path) -> None:
    """`max_shard_size` gives the index that transformers looks for."""
    output = convert("pvtv2-b0", tmp_path, max_shard_size="6MB")
    assert (output / "model.safetensors.index.json").exists()
    assert len(porter.open(output)) > 100


def test_only_a_new_folder_is_written(tmp_path: Path) -> None:
    """A folder with files, even with force, and the suffix of a file are refused."""
    given = tmp_path / "a.pth"
    porter.init("pvtv2-b0", given, to="torch")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.md").touch()
    for force in (False, True):
        with pytest.raises(UsageError, match="a folder is not replaced"):
            porter.convert("pvtv2-b0", given, tmp_path / "out", from_="torch", to="hf", force=force)
    for name, message in (("x.safetensors", "writes a folder"), ("no/x", "folder does not exist")):
        with pytest.raises(UsageError, match=message):
            porter.convert("pvtv2-b0", given, tmp_path / name, from_="torch", to="hf")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.pth", "a.pth.porter.json", "out"]
    (tmp_path / "out" / "notes.md").unlink()
    porter.convert("pvtv2-b0", given, tmp_path / "out", from_="torch", to="hf", verify=False)
    assert (tmp_path / "out" / "config.json").is_file()


def test_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder appears whole or not at all."""

    def fail(*_: object) -> None:
        raise InputError("a fault")

    monkeypatch.setattr(snapshot, "_write_json", fail)
    with pytest.raises(InputError, match="a fault"):
        convert("pvtv2-b0", tmp_path)
    assert not [file for file in tmp_path.iterdir() if "pth" not in file.name]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cait-xxs24-224", "transformers has no cait"),
        ("swin-tiny-relu-w7-224", "unknown dialect|transformers has no"),
        ("shunted-t", "transformers has no shunted"),
    ],
)
def test_families_without_transformers_are_refused(name: str, message: str, tmp_path: Path) -> None:
    """A family or a variant that transformers does not have is refused before any writing."""
    with pytest.raises(porter.errors.PorterError, match=message):
        convert(name, tmp_path)
    assert not (tmp_path / "out").exists()
