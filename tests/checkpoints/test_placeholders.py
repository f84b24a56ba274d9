"""Files without their weights are refused, not repacked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import porter
from porter.errors import InputError


def refused(path: Path, message: str) -> None:
    """Repack, and look at the words and at what is left."""
    with pytest.raises(InputError, match=message):
        porter.repack(path, path.parent / "out.npz")
    assert not list(path.parent.glob("out*"))


def test_placeholders_of_zero_3(tmp_path: Path) -> None:
    """Most tensors of shape [0], in any container; a few empty ones are a model's own."""
    empty, one = torch.empty(0), torch.ones(3)
    save_file({"a": empty, "b": empty.clone(), "step": one}, tmp_path / "model.safetensors")
    refused(tmp_path / "model.safetensors", r"2 of 3 tensors are placeholders of shape \[0\]")
    torch.save({"a": empty, "b": one, "c": one}, tmp_path / "a.pth")
    porter.repack(tmp_path / "a.pth", tmp_path / "fine.npz")
    torch.save({"module": {"a": empty, "b": one, "c": one}, "param_shapes": []}, tmp_path / "b.pt")
    refused(tmp_path / "b.pt", "1 of 3 tensors are placeholders")


def test_shard_without_the_others(tmp_path: Path) -> None:
    """A shard has a part of the weights; the index is named, be it there or not."""
    path = tmp_path / "model-00001-of-00002.safetensors"
    save_file({"a": torch.ones(2)}, path)
    refused(
        path, "shard 1 of 2, .*: download all shards and the index model.safetensors.index.json"
    )
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    refused(path, "give the index model.safetensors.index.json")
    assert list(porter.open(path)) == ["a"]
    with pytest.raises(InputError, match="is shard 1 of 2"):
        porter.convert("pvtv2-b0", path, tmp_path / "out.npz", verify=False, from_="torch")
    only = tmp_path / "model-00001-of-00001.safetensors"
    save_file({"a": torch.ones(2)}, only)
    porter.repack(only, tmp_path / "fine.npz")


@pytest.mark.parametrize("layer", [torch.nn.Linear(8, 8), torch.nn.LSTM(4, 4)])
def test_packed_parameters(layer: torch.nn.Module, tmp_path: Path) -> None:
    """Weights of quantised modules are in packed parameters, which are no tensors."""
    net = torch.nn.ModuleDict({"q": layer, "plain": torch.nn.LayerNorm(4)})
    kinds = {torch.nn.Linear, torch.nn.LSTM}
    quantised = torch.ao.quantization.quantize_dynamic(net, kinds, dtype=torch.qint8)
    torch.save(quantised.state_dict(), tmp_path / "net.pth")
    refused(tmp_path / "net.pth", "quant")
