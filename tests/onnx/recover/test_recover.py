"""Foreign ONNX files, made here by the real exporters, are recovered bit for bit or refused."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import porter
from porter import codecs
from porter.errors import InputError, UsageError
from porter.frameworks.models import build
from porter.onnx.recover.read import recover
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded
from tests.onnx.foreign.files import paddle2onnx_file

WITHOUT_BATCHNORM = ["cait-xxs24-224", "vit-tiny-p16-224", "swin-tiny-w7-224"]
COUNTERS = "num_batches_tracked"


def model(name: str, **changes: float) -> torch.nn.Module:
    """Return the reference model with seeded weights, some of them all of one value."""
    made = build(find(name), "torch").eval()
    state = {n: torch.from_numpy(np.array(t.read())) for n, t in seeded(find(name)).items()}
    for part, value in changes.items():
        state.update({n: torch.full_like(v, value) for n, v in state.items() if part in n})
    made.load_state_dict(state)
    return made


def exported(made: torch.nn.Module, path: Path, exporter: str, opset: int = 18) -> Path:
    """Export by one of torch's exporters, as its users do."""
    example = torch.zeros(2, 3, 224, 224)
    common = {"input_names": ["image"], "output_names": ["logits"], "opset_version": opset}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "torchscript":
            torch.onnx.export(made, (example,), path, dynamo=False,
                              dynamic_axes={"image": {0: "batch"}}, **common)  # fmt: skip
        else:
            torch.onnx.export(made, (example,), path, dynamo=True, external_data=False,
                              optimize=exporter == "optimised", verbose=False,
                              dynamic_shapes=({0: torch.export.Dim("batch")},),
                              **common)  # fmt: skip
    return path


def differences(found: StateDict, made: torch.nn.Module) -> list[str]:
    """Return the tensors that are not bit for bit those of a model, counters left out."""
    expected = {n: v.numpy() for n, v in made.state_dict().items() if COUNTERS not in n}
    assert {n for n in found if COUNTERS not in n} == set(expected)
    return [n for n, a in expected.items() if np.array(found[n].read()).tobytes() != a.tobytes()]


@pytest.mark.parametrize("name", WITHOUT_BATCHNORM)
@pytest.mark.parametrize("opset", [13, 18])
def test_torchscript_files_come_back(name: str, opset: int, tmp_path: Path) -> None:
    """Transposed weights without names, GELU and at opset 13 LayerNorm in pieces."""
    made = model(name)
    path = exported(made, tmp_path / "m.onnx", "torchscript", opset)
    found = recover(find(name), path)
    assert differences(found.state, made) == []
    assert "proven" in found.how[-1]


@pytest.mark.slow
@pytest.mark.parametrize("exporter", ["optimised", "plain"])
@pytest.mark.parametrize("name", ["shunted-t", *WITHOUT_BATCHNORM])
def test_dynamo_files_come_back(name: str, exporter: str, tmp_path: Path) -> None:
    """With and without the exporter's optimisation; a folded batch norm is refused by name."""
    made = model(name)
    path = exported(made, tmp_path / "m.onnx", exporter)
    if (name, exporter) == ("shunted-t", "optimised"):
        with pytest.raises(InputError, match=r"patch_embed1\.conv\.1 into patch_embed1\.conv\.0"):
            recover(find(name), path)
        return
    assert differences(recover(find(name), path).state, made) == []


@pytest.mark.slow
def test_merged_constants_are_split_again(tmp_path: Path) -> None:
    """The optimiser keeps one of many equal biases; each gets its own back."""
    made = model("vit-tiny-p16-224", bias=0.0, norm1=1.0)
    path = exported(made, tmp_path / "m.onnx", "optimised")
    names = {i.name for i in onnx.load(path).graph.initializer}
    assert len([n for n in made.state_dict() if "norm1.weight" in n and n in names]) < 12
    assert differences(recover(find("vit-tiny-p16-224"), path).state, made) == []


@pytest.mark.parametrize("name", ["shunted-t", *WITHOUT_BATCHNORM])
def test_paddle2onnx_files_come_back(name: str, tmp_path: Path) -> None:
    """Weights in Constant nodes, under Paddle's own names, in Paddle's layout."""
    found = recover(find(name), paddle2onnx_file(name, tmp_path))
    assert differences(found.state, model(name)) == []


def test_folded_batch_norms_are_refused_or_taken_as_asked(tmp_path: Path) -> None:
    """TorchScript folds them: refused by name with the remedy, or set to the identity."""
    made = model("shunted-t")
    path = exported(made, tmp_path / "m.onnx", "torchscript")
    with pytest.raises(InputError, match=r"patch_embed1\.conv\.1 into .*--fold-batchnorm"):
        recover(find("shunted-t"), path)
    found = recover(find("shunted-t"), path, fold_batchnorm=True)
    changed = differences(found.state, made)
    assert {n.rpartition(".")[0] for n in changed} == {"patch_embed1.conv.0", "patch_embed1.conv.1"}
    assert any("set to the identity" in line for line in found.how)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a ViT as torch's TorchScript exporter writes it."""
    folder = tmp_path_factory.mktemp("vit")
    return exported(model("vit-tiny-p16-224"), folder / "m.onnx", "torchscript")


def test_a_file_that_leaves_the_image_size_open_comes_back(vit: Path, tmp_path: Path) -> None:
    """optimum writes all sizes of the image as symbols: the variant's own is taken."""
    changed = onnx.load(vit)
    for dim, name in zip(changed.graph.input[0].type.tensor_type.shape.dim, "nchw", strict=True):
        dim.dim_param = name
    onnx.save(changed, tmp_path / "m.onnx")
    found = recover(find("vit-tiny-p16-224"), tmp_path / "m.onnx")
    assert differences(found.state, model("vit-tiny-p16-224")) == []


def test_a_file_that_computes_something_else_is_refused(vit: Path, tmp_path: Path) -> None:
    """A graph of the same layers and another function is found out when it is run."""
    path = tmp_path / "m.onnx"
    changed = onnx.load(vit)
    node = next(n for n in changed.graph.node if n.op_type == "LayerNormalization")
    next(a for a in node.attribute if a.name == "epsilon").f = 0.5
    onnx.save(changed, path)
    with pytest.raises(InputError, match="does not compute what the recovered weights do"):
        recover(find("vit-tiny-p16-224"), path)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    """A Swin is no ViT: the message says what has no place."""
    path = exported(model("swin-tiny-w7-224"), tmp_path / "m.onnx", "torchscript")
    with pytest.raises(InputError, match="not understood as vit-tiny-p16-224"):
        recover(find("vit-tiny-p16-224"), path)


def test_a_graph_without_a_picture_is_refused(tmp_path: Path) -> None:
    """What takes no square picture is refused before anything is traced."""
    value = onnx.helper.make_tensor_value_info("x", 1, [1, 4])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    output = onnx.helper.make_tensor_value_info("y", 1, [1, 4])
    path = tmp_path / "m.onnx"
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [value], [output])), path)
    with pytest.raises(UsageError, match="not one picture"):
        recover(find("vit-tiny-p16-224"), path)


def test_constants_of_porters_own_graph_are_not_weights(tmp_path: Path) -> None:
    """A hybrid's graph has vectors in Constant nodes; they are not part of its state dict."""
    variant, path = find("vit-tiny-r-s16-p8-224"), tmp_path / "hybrid.onnx"
    state = seeded(variant)
    source = tmp_path / "hybrid.safetensors"
    codecs.write(state, str(source), "safetensors")
    porter.convert(variant.name, source, path, from_="torch", to="onnx", verify=False)
    graph = onnx.load(path).graph
    constants = [n for n in graph.node if n.op_type == "Constant"]
    assert max(onnx.numpy_helper.to_array(n.attribute[0].t).size for n in constants) > 1
    norms = [n for n in graph.node if n.op_type == "LayerNormalization"]
    epsilons = {round(a.f, 12) for n in norms for a in n.attribute if a.name == "epsilon"}
    assert epsilons == {1e-6, 1e-8}  # of the blocks, and of the standardised weights
    assert set(recover(variant, path).state) == set(state)
