"""Folders: which file of a snapshot is read, and what is said where none is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import porter
from porter.errors import InputError

STATE = {"a": torch.ones(2), "b": torch.zeros(3)}


def write(path: Path, state: dict[str, torch.Tensor] = STATE) -> None:
    """Write the files of a snapshot, each by its own library."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(state, path)
    elif path.suffix in (".bin", ".pt", ".pth", ".ckpt"):
        torch.save(state, path)
    else:
        path.write_text("{}" if path.suffix == ".json" else "text")


def write_shards(folder: Path, stem: str = "model", suffix: str = ".safetensors") -> None:
    """Write two shards and their index."""
    names = [f"{stem}-0000{n}-of-00002{suffix}" for n in (1, 2)]
    for name, tensor in zip(names, "ab", strict=True):
        write(folder / name, {tensor: STATE[tensor]})
    index = {"metadata": {}, "weight_map": dict(zip("ab", names, strict=True))}
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (["model.safetensors", "config.json", "README.md"], "model.safetensors"),
        (["model.safetensors", "pytorch_model.bin", "tf_model.h5"], "model.safetensors"),
        (["pytorch_model.bin", "training_args.bin", "optimizer.pt", "rng_state_0.pth"],
         "pytorch_model.bin"),
        (["resnet.pth", "config.json"], "resnet.pth"),
        (["other.safetensors", "model.safetensors", "model.fp16.safetensors"],
         "model.safetensors"),
        (["adapter_model.safetensors", "model.safetensors"], "model.safetensors"),
    ],
)  # fmt: skip
def test_weights_of_a_snapshot(files: list[str], chosen: str, tmp_path: Path) -> None:
    """safetensors before the others, the usual name before unusual ones; the choice is said."""
    for name in files:
        write(tmp_path / name)
    found = porter.open(tmp_path)
    assert sorted(found) == ["a", "b"]
    assert found.origin is not None
    assert os.path.basename(found.origin.path) == chosen
    assert found.origin.notes[0].startswith(f"{chosen} is read")
    assert ("pytorch_model.bin" in found.origin.notes[0]) == ("pytorch_model.bin" in files)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_index_of_a_snapshot(suffix: str, tmp_path: Path) -> None:
    """Shards are read by their index; a whole file of the same kind comes before them."""
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    write_shards(tmp_path, stem, suffix)
    found = porter.open(tmp_path)
    assert sorted(found) == ["a", "b"]
    assert found.origin is not None
    assert len(found.origin.files) == 3


def test_format_chooses_among_the_files(tmp_path: Path) -> None:
    """`format` takes the file of that container."""
    write(tmp_path / "model.safetensors")
    write(tmp_path / "pytorch_model.bin")
    found = porter.open(tmp_path, format="torch")
    assert found.origin is not None
    assert found.origin.format == "torch"


def test_cache_of_a_hub(tmp_path: Path) -> None:
    """The revision that `refs/main` names is read, through the links of the cache."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    write_shards(blobs)
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(file)
    (tmp_path / "refs").mkdir()
    (tmp_path / "refs" / "main").write_text("abc")
    (tmp_path / "snapshots" / "old").mkdir()
    assert sorted(porter.open(tmp_path)) == ["a", "b"]
    (tmp_path / "refs" / "main").write_text("../../../etc")
    with pytest.raises(InputError, match="not a path below"):
        porter.open(tmp_path)
    (tmp_path / "refs" / "main").write_text("gone")
    with pytest.raises(InputError, match="names the folder gone, which is not there"):
        porter.open(tmp_path)


def test_folder_below(tmp_path: Path) -> None:
    """The only folder with weights is taken and said; of several, the names are given."""
    write(tmp_path / "checkpoint-5" / "model.safetensors")
    write(tmp_path / "logs" / "events.txt")
    found = porter.open(tmp_path)
    assert found.origin is not None
    assert found.origin.notes[0] == "the folder checkpoint-5 is taken"
    write(tmp_path / "checkpoint-9" / "model.safetensors")
    with pytest.raises(InputError, match="give one of checkpoint-5, checkpoint-9 in it"):
        porter.open(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "has no weights: it is empty"),
        (["config.json", "README.md"], "has no weights in it .*: download model.safetensors or"),
        (["tf_model.h5", "config.json"], "only in tf_model.h5, which porter does not read"),
        (["training_args.bin"], "has no weights in it"),
        (["x.pth", "y.pth"], "several files of weights: x.pth, y.pth; give the path of one"),
        (["model-00001-of-00002.safetensors"], "no index of them: .* model.safetensors.index.json"),
    ],
)
def test_folder_without_a_choice_is_refused(files: list[str], message: str, tmp_path: Path) -> None:
    """One line that says what is in the folder and what to do."""
    for name in files:
        write(tmp_path / name)
    with pytest.raises(InputError, match=message) as caught:
        porter.open(tmp_path)
    assert "\n" not in str(caught.value)


def test_pointer_of_git_is_said(tmp_path: Path) -> None:
    """A snapshot that was cloned without Git LFS has pointers."""
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (tmp_path / "model.safetensors").write_text(text)
    with pytest.raises(InputError, match="git lfs pull"):
        porter.open(tmp_path)
