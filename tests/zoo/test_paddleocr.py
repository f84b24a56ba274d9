"""PaddleOCR's models: names as their authors have them, folds, shared and optional tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import porter
from porter import codecs
from porter.errors import MappingError, UsageError
from porter.mapping.table import CANONICAL
from porter.planning.check import dialect_tensors
from porter.planning.plan import plan
from porter.planning.recognise import recognise
from porter.tensors.dtypes import DTYPES
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.verification.weights import prove_weights
from porter.zoo.architectures import find
from porter.zoo.preprocessing import understood
from porter.zoo.published import published_config, published_processor
from porter.zoo.seeded import noise

NAMES: dict[str, dict[str, tuple[int, str]]] = json.loads(
    (Path(__file__).with_name("paddleocr-names.json")).read_text()
)
"""{variant: {naming: (tensors, digest of their names, dtypes and shapes)}}, of PaddleX 3.7.2 and
transformers 5.24; `pairs`: of the names in training and in transformers, side by side."""
DIALECTS = {"hf": "torch", "paddlex": "paddle", "train": "train"}
CONVERTER = {"slanet": "train-converter"}
"""Where the list of training names is that of the converter, not of the training code."""


def digest(lines: Iterable[str]) -> list[object]:
    """Return the count and the digest of sorted lines."""
    text = sorted(lines)
    return [len(text), hashlib.sha256("\n".join(text).encode()).hexdigest()[:16]]


@pytest.mark.parametrize("side", DIALECTS)
@pytest.mark.parametrize("name", NAMES)
def test_names_and_shapes_are_those_of_the_authors(name: str, side: str) -> None:
    """Each naming of each variant has the tensors of its own implementation, no more, no less."""
    variant = find(name)
    dialect = CONVERTER.get(name, "train") if side == "train" else DIALECTS[side]
    tensors = dialect_tensors(variant, dialect)
    lines = (f"{n} {d} {' '.join(map(str, shape))}" for n, (d, shape) in tensors.items())
    assert digest(lines) == NAMES[name][side]


@pytest.mark.parametrize("name", [name for name, sides in NAMES.items() if "pairs" in sides])
def test_names_are_paired_as_the_authors_pair_them(name: str) -> None:
    """Each training name becomes the name in transformers that the converter gives it."""
    dialect = CONVERTER.get(name, "train")
    made = plan(find(name), dialect_tensors(find(name), dialect), dialect, "paddle")
    lines = [f"{link.dialect[0]} {link.canonical[0]}" for link in made.source.links]
    assert digest(lines) == NAMES[name]["pairs"]


def seeded(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> StateDict:
    """Return random values for names and shapes, made when they are read."""

    def tensor(name: str, dtype: str, shape: tuple[int, ...]) -> LazyTensor:
        def read() -> np.ndarray:
            values = noise(3, name, shape)
            positive = name.endswith(("_variance", "running_var"))
            return (np.abs(values) + np.float32(0.5) if positive else values).astype(dtype)

        return LazyTensor(DTYPES[dtype], shape, read)

    return StateDict({name: tensor(name, *row) for name, row in tensors.items()})


def training(name: str) -> StateDict:
    """Return a random training checkpoint of a variant."""
    return seeded(dialect_tensors(find(name), "train"))


def test_a_training_checkpoint_is_folded_and_proven(tmp_path: Path) -> None:
    """Branches become convolutions, the file says which; what only training uses is left out."""
    state = training("pp-ocrv6-tiny-rec")
    extra = {"head.gtc_head.x.weight": LazyTensor.of(np.ones(3, np.float32))}
    source, output = tmp_path / "a.pdparams", tmp_path / "a.safetensors"
    codecs.write(StateDict({**state, **extra}), str(source), "paddle")
    made = porter.convert(None, source, output, to="torch:hf")
    assert made.ok
    assert made.from_ == "paddle:train"
    assert made.weights is not None
    assert (made.weights.compared, made.weights.folded) == (136, 70)
    assert list(made.plan.dropped) == ["head.gtc_head.x.weight"]
    written = codecs.read(str(output))
    assert written.origin is not None
    assert "token_conv" in written.origin.metadata["porter.one_way"]
    assert "fold rep_dw" in written.origin.metadata["porter.one_way"]
    path = "backbone.blocks2.0.token_mixer.rep_dw."
    parts = {n.removeprefix(path): t.read() for n, t in state.items() if n.startswith(path)}
    outer = parts["bn.weight"] / np.sqrt(parts["bn._variance"].astype(np.float64) + 1e-5)
    inner = parts["conv.bn.weight"] / np.sqrt(parts["conv.bn._variance"].astype(np.float64) + 1e-5)
    corner = outer * inner * parts["conv.conv.weight"][:, 0, 0, 0]
    found = written["model.backbone.encoder.blocks.0.blocks.0.token_conv.weight"].read()
    np.testing.assert_allclose(found[:, 0, 0, 0], corner, rtol=1e-7)


def test_a_wrong_fold_fails_the_proof() -> None:
    """What does not come back is computed again: one wrong value is a problem."""
    state = training("pp-ocrv6-tiny-rec")
    made = plan(find("pp-ocrv6-tiny-rec"), shapes(state), "train", CANONICAL)
    good = dict(made.apply(state))
    assert prove_weights(made, state, good).holds
    name = "model.backbone.encoder.blocks.0.blocks.0.token_conv.bias"
    wrong = good[name].read().copy()
    wrong[0] = np.nextafter(wrong[0], np.float32(9))
    proof = prove_weights(made, state, {**good, name: LazyTensor.of(wrong)})
    assert [problem for problem in proof.problems if name in problem]


def shapes(state: Mapping[str, LazyTensor]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return names, dtypes and shapes."""
    return {name: (tensor.dtype.name, tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize("name", ["pp-ocrv6-tiny-det", "pp-ocrv6-medium-det", "pp-ocrv6-small-rec"])
def test_there_is_no_way_back_from_a_fold(name: str) -> None:
    """The rows are named, before anything is read."""
    variant = find(name)
    with pytest.raises(MappingError, match=r"no way back from .*token_conv.*rep_dw"):
        plan(variant, dialect_tensors(variant, "paddle"), "paddle", "train")


def test_a_row_of_zeros_is_added_and_left_out_again() -> None:
    """PaddleDetection stores no embedding for "no class": zeros there, named when it is lost."""
    variant, name = find("rt-detr-l-wired-table-cell-det"), "model.denoising_class_embed.weight"
    state = training(variant.name)
    there = plan(variant, shapes(state), "train", "paddle")
    canonical = there.read(state)
    table = canonical[name].read()
    assert table.shape == (2, 256)
    assert not table[1].any()
    assert table[0].all()
    assert not there.one_way
    back = plan(variant, shapes(canonical), CANONICAL, "train")
    assert list(back.one_way) == [name]
    assert back.write(canonical)["transformer.denoising_class_embed.weight"].shape == (1, 256)


def test_q_k_and_v_are_column_blocks_of_one_matrix() -> None:
    """The packed matrix is split along its columns, each part then transposed."""
    state = training("rt-detr-l-wired-table-cell-det")
    made = plan(find("rt-detr-l-wired-table-cell-det"), shapes(state), "train", CANONICAL)
    canonical = made.read(state)
    packed = state["transformer.decoder.layers.3.self_attn.in_proj_weight"].read()
    for index, part in enumerate("qkv"):
        found = canonical[f"model.decoder.layers.3.self_attn.{part}_proj.weight"].read()
        np.testing.assert_array_equal(found, packed[:, 256 * index : 256 * (index + 1)].T)


@pytest.mark.parametrize("dialect", ["train", "hf"])
def test_shared_heads_are_written_once_and_read_twice(dialect: str) -> None:
    """PP-DocLayoutV3's decoder has the encoder's heads; different values are seen by the proof."""
    variant = find("pp-doclayoutv3")
    state = seeded(dialect_tensors(variant, dialect))
    made = plan(variant, shapes(state), dialect, "paddle")
    assert len(made.copied) == 8
    canonical = made.read(state)
    one, two = "model.enc_score_head.weight", "model.decoder.class_embed.weight"
    np.testing.assert_array_equal(canonical[one].read(), canonical[two].read())
    back = plan(variant, shapes(canonical), CANONICAL, dialect)
    assert all(lost.endswith("num_batches_tracked") for lost in back.lost)
    returned = back.back(back.write(canonical))
    for name in (one, two, "model.decoder.bbox_embed.layers.1.bias"):
        np.testing.assert_array_equal(returned[name].read(), canonical[name].read())


def test_tensors_without_effect_may_be_missing() -> None:
    """Published files of PP-DocLayoutV2 lack two biases that the class has; both are read."""
    variant = find("pp-doclayoutv2")
    names = [f"reading_order.encoder.rel_pos_{axis}_bias.weight" for axis in "xy"]
    whole = dialect_tensors(variant, "hf")
    assert set(names) <= set(whole)
    short = {name: row for name, row in whole.items() if name not in names}
    assert plan(variant, short, "hf", "paddle").filled == dict.fromkeys(names, 0)
    assert not plan(variant, whole, "hf", CANONICAL).filled


@pytest.mark.parametrize("dialect", ["train", "train-bn"])
def test_a_detector_is_recognised_though_its_branches_are_not_folded(dialect: str) -> None:
    """A training checkpoint has fewer elements than the folded model, and other names."""
    found = recognise(dialect_tensors(find("pp-ocrv6-medium-det"), dialect))
    assert [(m.architecture.name, m.dialect) for m in found if m.exact] == [
        ("pp-ocrv6-medium-det", dialect)
    ]


@pytest.mark.parametrize("name", ["pp-lcnet-x0_25-textline-ori", "pp-ocrv6-tiny-det"])
def test_a_folder_that_transformers_loads(name: str, tmp_path: Path) -> None:
    """Without a suffix `torch:hf` means a folder: the weights and the published configuration."""
    source, folder = tmp_path / "a.pdparams", tmp_path / "folder"
    state = training(name)
    codecs.write(state, str(source), "paddle")
    made = porter.convert(name, source, folder, from_="paddle:train", to="torch:hf")
    assert made.ok
    files = {"config.json", "model.safetensors", *published_processor(find(name))}
    assert files <= {path.name for path in folder.iterdir()}
    config = json.loads((folder / "config.json").read_text())
    assert config == {**(published_config(find(name)) or {}), "torch_dtype": "float32"}
    back = porter.convert(name, folder, tmp_path / "b.pdparams", to="paddle:paddlex")
    assert back.ok


def test_a_recogniser_takes_its_dictionary_along(tmp_path: Path) -> None:
    """From `inference.yml` next to it or a file of lines, into a folder and back out of it."""
    import yaml

    name, source = "pp-ocrv6-tiny-rec", tmp_path / "a.pdparams"
    codecs.write(training(name), str(source), "paddle")
    lines = [chr(0x4E00 + at) for at in range(find(name).num_classes - 2)]
    whole = ["blank", *lines, " "]

    def made(folder: str, start: Path, **options: Any) -> tuple[porter.Conversion, Any]:
        found = porter.convert(name, start, tmp_path / folder, to="torch:hf", **options)
        text = (tmp_path / folder / "preprocessor_config.json").read_text()
        return found, json.loads(text).get("character_list")

    without, listed = made("none", source)
    assert listed is None
    assert any("no dictionary is known: pass --labels" in note for note in without.notes)
    (tmp_path / "dict.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert made("given", source, onnx={"labels": str(tmp_path / "dict.txt")})[1] == whole
    assert made("again", tmp_path / "given" / "model.safetensors")[1] == whole
    body = {"PostProcess": {"character_dict": lines}}
    (tmp_path / "inference.yml").write_text(yaml.dump(body, allow_unicode=True), encoding="utf-8")
    found, listed = made("next", source)
    assert listed == whole
    assert "dictionary: 7180 characters (inference.yml)" in found.notes
    with pytest.raises(UsageError, match="for --to onnx, or a folder for --to hf only"):
        porter.convert(name, source, tmp_path / "b.safetensors", to="torch:hf",
                       onnx={"labels": "dict.txt"})  # fmt: skip


def test_another_number_of_classes_has_numbered_labels() -> None:
    """The labels of the published classifier are kept only for its own number of classes."""
    variant = find("pp-lcnet-x1_0-doc-ori")
    own, other = published_config(variant), published_config(variant, 3)
    assert own is not None
    assert other is not None
    assert own["id2label"]["1"] == "90"
    assert other["label2id"] == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
    recogniser = published_config(find("pp-ocrv6-tiny-rec"), 99)
    assert recogniser is not None
    assert recogniser["head_out_channels"] == 99


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_folder_says_how_pictures_are_prepared(name: str) -> None:
    """Means, sizes and interpolation of transformers' image processor are those of the variant."""
    variant = find(name)
    files = published_processor(variant)
    if published_config(variant) is None or variant.family == "hgnet-v2":  # a backbone
        assert not files
        return
    ((file, body),) = files.items()
    assert file == ("processor_config.json" if "formula" in name else "preprocessor_config.json")
    body = body.get("image_processor", body)
    assert body["image_processor_type"].endswith("ImageProcessor")
    found, known = understood(body, variant.image_size), variant.preprocessing
    assert found["interpolation"] == known.interpolation
    if body.get("do_normalize"):
        assert (tuple(found["mean"]), tuple(found["std"])) == (known.mean, known.std)
    if "size" in body:
        assert (body["size"]["height"], body["size"]["width"]) == variant.sides()
