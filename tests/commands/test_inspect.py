"""Inspection says what a file is, and reads no tensor to do so."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import porter
from porter.errors import InputError
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded


def save(path: Path, wrap: object = None) -> Path:
    """Write seeded weights with torch, in a training checkpoint if asked."""
    import torch

    arrays = seeded(find("pvtv2-b0")).arrays()
    state: object = {n: torch.from_numpy(np.array(a)) for n, a in arrays.items()}
    if wrap is not None:
        state = {
            "model": {f"module.{n}": t for n, t in state.items()},  # type: ignore[attr-defined]
            "model_ema": state,
            "optimizer": {"state": {}, "param_groups": []},
            "epoch": 3,
            "args": argparse.Namespace(lr=1.0),
        }
    torch.save(state, path)
    return path


def test_a_plain_checkpoint(tmp_path: Path) -> None:
    """Format, architecture, dialect, classes, image size, dtypes."""
    found = porter.inspect(save(tmp_path / "a.pth"))
    assert found.origin.format == "torch"
    (match,) = found.matches
    assert (match.architecture.name, match.dialect, match.exact) == ("pvtv2-b0", "torch", True)
    assert (match.num_classes, match.image_size) == (1000, 224)
    assert found.dtypes == {"float32": len(found.state)}
    assert found.tied == ()


def test_a_training_checkpoint(tmp_path: Path) -> None:
    """What was chosen, what else there was, what is no tensor; `key` chooses another."""
    path = save(tmp_path / "a.pth", wrap=True)
    origin = porter.inspect(path).origin
    assert (origin.wrapper, origin.prefix) == ("model", "module.")
    assert "model_ema" in " ".join(origin.others)
    assert all(word in " ".join(origin.skipped) for word in ("optimizer", "epoch", "args"))
    ema = porter.inspect(path, key="model_ema")
    assert ema.origin.wrapper == "model_ema"
    assert ema.matches[0].exact


def test_what_porter_wrote_carries_its_provenance(tmp_path: Path) -> None:
    """In the file where the format has a place, beside it where not."""
    source = save(tmp_path / "a.pth")
    for name, to in (("o.safetensors", "safetensors"), ("o.pdparams", "paddle")):
        porter.convert("pvtv2-b0", source, tmp_path / name, from_="torch", to=to, verify=False)
        metadata = porter.inspect(tmp_path / name).origin.metadata
        assert metadata["porter.architecture"] == "pvtv2-b0"
        assert metadata["porter.version"] == porter.__version__
        assert metadata["porter.source"] == "a.pth"


def test_tied_tensors_are_named(tmp_path: Path) -> None:
    """Names that share their memory are told from names that hold equal values."""
    import torch

    shared = torch.ones(3, 3)
    torch.save({"a": shared, "b": shared, "c": torch.ones(3, 3)}, tmp_path / "t.pth")
    found = porter.inspect(tmp_path / "t.pth")
    assert found.tied == (("a", "b"),)
    assert found.matches == ()


def test_layers_are_folded(tmp_path: Path) -> None:
    """One line for tensors alike, with how many there are."""
    rows = porter.inspect(save(tmp_path / "a.pth")).layers()
    assert sum(count for *_, count in rows) >= len(rows)
    assert any("{" in name for name, *_ in rows)


def test_no_tensor_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of any size answers from its directory."""
    from porter.tensors.lazy import LazyTensor

    path = save(tmp_path / "a.pth")

    def refuse(self: LazyTensor) -> None:
        raise AssertionError("a tensor was read")

    monkeypatch.setattr(LazyTensor, "read", refuse)
    assert porter.inspect(path).matches[0].exact


def test_no_framework_is_imported(tmp_path: Path) -> None:
    """Neither torch nor paddle, whichever wrote the file."""
    path = save(tmp_path / "a.pth")
    code = (
        f"import sys, porter; porter.inspect({str(path)!r})\n"
        "assert not {'torch', 'paddle', 'onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def seeded_file(name: str, path: Path) -> Path:
    """Write a seeded checkpoint."""
    porter.init(name, path)
    return path


def test_an_onnx_model_says_what_it_takes_and_of_which_variant_it_is(tmp_path: Path) -> None:
    """DeiT has the tensors of ViT: the recorded variant comes first; the graph has a line."""
    path = tmp_path / "m.onnx"
    source = seeded_file("deit-tiny-224", tmp_path / "m.pth")
    porter.convert("deit-tiny-224", source, path, from_="torch", to="onnx", verify=False)
    found = porter.inspect(path)
    assert found.matches[0].architecture.name == "deit-tiny-224"
    assert "image float32 [batch, 3, 224, 224] → logits float32 [batch, 1000]" in found.graph
    assert "opset 20" in found.graph


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    """A text, a folder, nothing at all: one line each."""
    (tmp_path / "a.txt").write_text("hello")
    for path in (tmp_path / "a.txt", tmp_path, tmp_path / "none"):
        with pytest.raises(InputError) as caught:
            porter.inspect(path)
        assert str(path) in str(caught.value)
