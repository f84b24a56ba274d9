"""Checkpoints as PaddleOCR, PaddleClas and PaddleDetection leave them after a training."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import porter
from porter import codecs
from porter.errors import InputError, MappingError, UsageError
from porter.planning.check import dialect_tensors
from porter.tensors.blocks import Array
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import find

TEXT, LINES, ORIENTATION = (
    "pp-ocrv6-tiny-rec",
    "pp-lcnet-x0_25-textline-ori",
    "pp-lcnet-x1_0-doc-ori",
)
HIDDEN, VOCABULARY = 384, 6909


def trained(variant: str, classes: int | None = None, seed: int = 1) -> dict[str, Array]:
    """A random training checkpoint of a variant."""
    draw, architecture = np.random.default_rng(seed), find(variant)
    if classes is not None:
        architecture = replace(architecture, num_classes=classes)
    return {
        name: draw.uniform(0.5, 1.5, shape).astype(dtype)
        for name, (dtype, shape) in dialect_tensors(architecture, "train").items()
    }


def second_head() -> dict[str, Array]:
    """The head that only training uses; it is ten times as large as the model."""
    shapes = {
        "before_gtc.1.fc.weight": (120, HIDDEN),
        "gtc_head.embedding.embedding.weight": (VOCABULARY, HIDDEN),
        "gtc_head.tgt_word_prj.weight": (HIDDEN, VOCABULARY),
    }
    for layer in range(4):
        shapes[f"gtc_head.decoder.{layer}.self_attn.qkv.weight"] = (HIDDEN, 3 * HIDDEN)
        shapes[f"gtc_head.decoder.{layer}.mlp.fc1.weight"] = (HIDDEN, 4 * HIDDEN)
        shapes[f"gtc_head.decoder.{layer}.mlp.fc2.weight"] = (4 * HIDDEN, HIDDEN)
    return {f"head.{name}": np.zeros(shape, np.float32) for name, shape in shapes.items()}


def below(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays with a prefix before their names."""
    return {prefix + name: array for name, array in arrays.items()}


def write(arrays: Mapping[str, Array], path: Path) -> Path:
    """Write a `.pdparams`."""
    path.parent.mkdir(exist_ok=True)
    codecs.write(StateDict.of(dict(arrays)), str(path), "paddle", record=False)
    return path


def converted(source: Path, output: Path) -> porter.Converted:
    """Convert a file without a word on what it is."""
    return porter.convert(None, source, output, to="torch:hf", verify=False, record=False)


def test_a_recogniser_is_known_next_to_a_larger_second_head(tmp_path: Path) -> None:
    """PaddleOCR saves its NRTR head in each checkpoint; it is left out and named."""
    path = write({**trained(TEXT), **second_head()}, tmp_path / "best_accuracy.pdparams")
    (match,) = (match for match in porter.inspect(path).matches if match.exact)
    assert (match.architecture.name, match.dialect) == (TEXT, "train")
    done = converted(path, tmp_path / "o.safetensors")
    assert set(second_head()) <= set(done.plan.dropped)


@pytest.mark.parametrize("teacher", [LINES, ORIENTATION])
def test_the_student_of_a_distillation_is_taken(teacher: str, tmp_path: Path) -> None:
    """The teacher, be it the same model or another, is counted; `prefix` takes it."""
    student, other = trained(LINES), trained(teacher, seed=2)
    both = {**below("Student.", student), **below("Teacher.", other)}
    path = write(both, tmp_path / "best_accuracy.pdparams")
    done = converted(path, tmp_path / "o.safetensors")
    assert done.plan.architecture.name == LINES
    number = len(other)
    assert f"prefix 'Student.'; left out: Teacher.* ({number} tensors)" in done.notes
    wanted = converted(write(student, tmp_path / "a" / "a.pdparams"), tmp_path / "a.safetensors")
    assert wanted.plan.architecture.name == LINES
    left, right = (codecs.read(str(tmp_path / f"{name}.safetensors")) for name in "ao")
    assert {n: t.read().tobytes() for n, t in left.items()} == {
        n: t.read().tobytes() for n, t in right.items()
    }
    porter.convert(
        teacher, path, tmp_path / "t.safetensors", prefix="Teacher.", to="torch:hf", verify=False
    )


def test_a_student_in_small_letters_is_not_chosen(tmp_path: Path) -> None:
    """Of DINO's models the teacher is used, and so the user is asked."""
    arrays = trained(LINES)
    path = write(
        {**below("student.", arrays), **below("teacher.", arrays)}, tmp_path / "a.pdparams"
    )
    with pytest.raises(UsageError, match=r"--prefix student\. or --prefix teacher\."):
        converted(path, tmp_path / "o.safetensors")


@pytest.mark.parametrize("best", ["best_accuracy", "best_model"])
def test_the_best_checkpoint_of_a_folder_is_taken(best: str, tmp_path: Path) -> None:
    """Others are named; without a best one the user is asked."""
    arrays = trained(LINES)
    for name in (best, "latest", "iter_epoch_10"):
        write(arrays, tmp_path / f"{name}.pdparams")
    state = porter.inspect(tmp_path)
    assert state.origin.path.endswith(f"{best}.pdparams")
    assert state.origin.notes[0].startswith(
        f"{best}.pdparams is read, not iter_epoch_10.pdparams, latest.pdparams"
    )
    (tmp_path / f"{best}.pdparams").unlink()
    with pytest.raises(InputError, match="several files of weights"):
        porter.inspect(tmp_path)


@pytest.mark.parametrize(
    ("file", "variant"),
    [
        ("PP-LCNet_x1_0_table_cls_pretrained.pdparams", "pp-lcnet-x1_0-table-cls"),
        ("PP-LCNet_x1_0_textline_ori_infer/model.pdparams", "pp-lcnet-x1_0-textline-ori"),
        ("pp-lcnet-x1_0-doc-ori.pdparams", ORIENTATION),
    ],
)
def test_a_name_of_paddlex_decides_between_equal_models(
    file: str, variant: str, tmp_path: Path
) -> None:
    """The file's or the folder's, with PaddleX's endings."""
    path = write(trained(ORIENTATION, 2), tmp_path / file)
    assert converted(path, tmp_path / "o.safetensors").plan.architecture.name == variant
    assert porter.inspect(path).matches[0].architecture.name == variant


@pytest.mark.parametrize("form", ["{}", "{{PostProcess: {{Topk: {}}}}}"])
def test_labels_of_inference_yml_go_into_the_output(form: str, tmp_path: Path) -> None:
    """PaddleX writes the names of a detector's or a classifier's classes into it."""
    path = write(trained(LINES), tmp_path / "a.pdparams")
    (tmp_path / "inference.yml").write_text(form.format("{label_list: [a, 1]}"))
    converted(path, tmp_path / "folder")
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert config["id2label"] == {"0": "a", "1": "1"}
    assert config["label2id"] == {"a": 0, "1": 1}
    (tmp_path / "inference.yml").write_text("{label_list: [a, b, c]}")
    converted(path, tmp_path / "other")
    assert json.loads((tmp_path / "other" / "config.json").read_text())["id2label"]["0"] != "a"


def test_the_state_of_a_training_is_no_model(tmp_path: Path) -> None:
    """Optimizer and counters are refused with what they are."""
    moments = {f"conv2d_{i}.w_0_moment1_0": np.zeros(3, np.float32) for i in range(3)}
    with pytest.raises(InputError, match=r"state of an optimizer.*give the \.pdparams"):
        converted(write(moments, tmp_path / "latest.pdopt"), tmp_path / "o.safetensors")
    (tmp_path / "latest.states").write_bytes(pickle.dumps({"epoch": 3, "global_step": 9}))
    with pytest.raises(InputError, match="no tensors under names, only epoch, global_step"):
        converted(tmp_path / "latest.states", tmp_path / "o.safetensors")


def test_a_relative_of_a_known_model_is_refused_with_the_difference(tmp_path: Path) -> None:
    """The nearest model, how near, and the first of what does not fit."""
    arrays = {**trained(LINES), "last.weight": np.ones(3, np.float32)}
    with pytest.raises(InputError, match=rf"most like {LINES} \(.*%.*\): unexpected last.weight"):
        converted(write(arrays, tmp_path / "a.pdparams"), tmp_path / "o.safetensors")
    other = {f"block{i}.conv.weight": np.ones((3, 3), np.float32) for i in range(9)}
    with pytest.raises(InputError, match=r"porter table infer"):
        converted(write(other, tmp_path / "b.pdparams"), tmp_path / "o.safetensors")
    path = write(trained(LINES), tmp_path / "c.pdparams")
    with pytest.raises(InputError, match=rf"is a {LINES} as paddle:train, which --from"):
        porter.convert(None, path, tmp_path / "o.safetensors", from_="torch", to="torch:hf")
    with pytest.raises(MappingError):
        porter.convert(LINES, tmp_path / "a.pdparams", tmp_path / "o.safetensors", to="torch:hf")


def test_another_naming_is_named_first(tmp_path: Path) -> None:
    """Of a family without reference model, too."""
    path = write(trained(TEXT, 98), tmp_path / "a.pdparams")
    with pytest.raises(MappingError, match=rf"a\.pdparams: it fits {TEXT} as paddle:train; does"):
        porter.convert(TEXT, path, tmp_path / "o.pth", from_="paddle:paddlex", to="torch")


def test_a_prediction_says_which_dictionary_is_missing(tmp_path: Path) -> None:
    """The one that the training names."""
    path = write(trained(TEXT, 98), tmp_path / "a.pdparams")
    (tmp_path / "config.yml").write_text("Global: {character_dict_path: ppocr/my.txt}")
    picture = tmp_path / "line.png"
    Image.new("RGB", (90, 30), "white").save(picture)
    with pytest.raises(UsageError, match=r"config.yml names the dictionary ppocr/my.txt, which"):
        porter.predict(path, [picture])
    (tmp_path / "my.txt").write_text("\n".join(chr(ord("!") + n) for n in range(96)))
    assert isinstance(porter.predict(path, [picture]).texts[str(picture)].text, str)


def test_bits_without_a_type_are_named(tmp_path: Path) -> None:
    """uint16 in a plain pickle may be bfloat16; the user says so, once."""
    bits = {name: np.zeros(array.shape, np.uint16) for name, array in trained(LINES).items()}
    path = tmp_path / "a.pdparams"
    path.write_bytes(pickle.dumps(bits, protocol=2))
    assert "which may be bfloat16: `porter repack --uint16" in porter.inspect(path).origin.notes[0]
    porter.repack(path, tmp_path / "b.pdparams", uint16="bfloat16", record=False)
    assert porter.inspect(tmp_path / "b.pdparams").matches[0].exact
