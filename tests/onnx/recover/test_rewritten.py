"""Porter's files that other tools rewrote come back bit for bit, or are refused for a reason."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import version_converter
from onnxruntime.quantization import quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxscript import optimizer

import porter
from porter import codecs
from porter.errors import InputError
from porter.onnx.recover.read import recover
from porter.onnx.recover.recorded import is_as_written
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded
from tests.onnx.foreign.files import rewritten_file

VIT = "vit-tiny-p16-224"
BIT_FOR_BIT = "152 weights are those that porter wrote, bit for bit"
CARE = {"verify": False, "from_": "torch", "to": "onnx"}


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a ViT as porter writes it."""
    folder = tmp_path_factory.mktemp("vit")
    codecs.write(seeded(find(VIT)), str(folder / "vit.safetensors"), "safetensors")
    porter.convert(VIT, folder / "vit.safetensors", folder / "vit.onnx", **CARE)
    return folder / "vit.onnx"


def differences(state: StateDict, name: str) -> list[str]:
    """Return the tensors that are not bit for bit the seeded ones."""
    expected = seeded(find(name))
    assert list(state) == list(expected)
    return [
        key
        for key, tensor in expected.items()
        if np.array(tensor.read()).tobytes() != np.array(state[key].read()).tobytes()
        or tensor.dtype != state[key].dtype
    ]


@pytest.mark.parametrize("tool", ["onnxslim", "onnxsim", "onnxconverter"])
def test_what_deployers_tools_rewrite_comes_back(tool: str, tmp_path: Path) -> None:
    """Weights are renamed and transposed, nodes merged; the state dict is the same."""
    found = recover(find(VIT), rewritten_file(VIT, tool, tmp_path))
    assert differences(found.state, VIT) == []
    assert BIT_FOR_BIT in found.how[0]
    assert "proven" in found.how[-1]


def test_gathered_position_tables_come_back(tmp_path: Path) -> None:
    """onnxslim replaces Swin's tables by what is gathered from them."""
    name = "swin-tiny-w7-224"
    found = recover(find(name), rewritten_file(name, "onnxslim", tmp_path))
    assert differences(found.state, name) == []


def test_a_batch_norm_folded_by_a_tool_is_refused(tmp_path: Path) -> None:
    """The message says what to do instead; with the option the rest comes back."""
    path = rewritten_file("shunted-t", "onnxslim", tmp_path)
    with pytest.raises(InputError, match="use the file as it was before another tool rewrote it"):
        recover(find("shunted-t"), path)
    found = recover(find("shunted-t"), path, fold_batchnorm=True)
    changed = {name.rpartition(".")[0] for name in differences(found.state, "shunted-t")}
    assert changed == {"patch_embed1.conv.0", "patch_embed1.conv.1"}  # the counter came back too
    assert "changed 5 of the 259 weights" in found.how[0]


def _basic(source: Path, path: Path, without: Sequence[str] = ()) -> None:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(
        source, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(without)
    )


def _prepared(source: Path, path: Path) -> None:
    quant_pre_process(str(source), str(path))


def _folded(source: Path, path: Path) -> None:
    onnx.save(optimizer.optimize(onnx.load(source)), path)


def _newer(source: Path, path: Path) -> None:
    onnx.save(version_converter.convert_version(onnx.load(source), 21), path)


@pytest.mark.parametrize("rewrite", [_basic, _prepared, _folded, _newer])
def test_what_onnx_and_its_runtime_rewrite_comes_back(
    rewrite: Callable[[Path, Path], None], vit: Path, tmp_path: Path
) -> None:
    """Basic optimisation, preparation for quantising, constant folding, another opset."""
    rewrite(vit, tmp_path / "m.onnx")
    assert not is_as_written(str(tmp_path / "m.onnx"))
    found = recover(find(VIT), tmp_path / "m.onnx")
    assert differences(found.state, VIT) == []
    assert BIT_FOR_BIT in found.how[0]


def test_scales_of_one_number_and_branches_come_back_from_a_rewritten_file(tmp_path: Path) -> None:
    """PP-OCRv5's detector: ONNX Runtime folds the batch norms of its branches, not those on the
    identity; what no output depends on is in the metadata."""
    name = "pp-ocrv5-mobile-det"
    codecs.write(seeded(find(name)), str(tmp_path / "a.safetensors"), "safetensors")
    porter.convert(name, tmp_path / "a.safetensors", tmp_path / "a.onnx", **CARE)
    _basic(tmp_path / "a.onnx", tmp_path / "m.onnx", ["ConvMulFusion", "ConvAddFusion"])
    found = recover(find(name), tmp_path / "m.onnx", fold_batchnorm=True)
    changed = {key.rpartition(".")[0] for key in differences(found.state, name)}
    assert {module.rpartition(".")[2] for module in changed} == {
        "convolution", "normalization", "norm"
    }  # fmt: skip
    assert not any("lab" in module or "identity" in module for module in changed)


def _saved(source: Path, path: Path) -> None:
    onnx.save(onnx.load(source), path)


def _outside(source: Path, path: Path) -> None:
    onnx.save(onnx.load(source), path, save_as_external_data=True, location="m.data")


def _inferred(source: Path, path: Path) -> None:
    onnx.save(onnx.shape_inference.infer_shapes(onnx.load(source)), path)


@pytest.mark.parametrize("save", [_saved, _outside, _inferred])
def test_a_file_that_was_only_saved_again_is_read_by_its_names(
    save: Callable[[Path, Path], None], vit: Path, tmp_path: Path
) -> None:
    """The graph still has the digest that porter recorded: nothing is searched or run."""
    save(vit, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").read_bytes() != vit.read_bytes()
    found = recover(find(VIT), tmp_path / "m.onnx")
    assert differences(found.state, VIT) == []
    assert found.how == ()


def test_a_graph_that_computes_something_else_is_refused(vit: Path, tmp_path: Path) -> None:
    """A Softmax at the end, an epsilon that outputs hardly show: the metadata are not believed."""
    model = onnx.load(vit)
    model.graph.node.append(onnx.helper.make_node("Softmax", ["logits"], ["probabilities"]))
    model.graph.output[0].name = "probabilities"
    onnx.save(model, tmp_path / "softmax.onnx")
    with pytest.raises(InputError, match="its output is the softmax of what they compute"):
        recover(find(VIT), tmp_path / "softmax.onnx")
    model = onnx.load(vit)
    norm = next(n for n in model.graph.node if n.op_type == "LayerNormalization")
    next(a for a in norm.attribute if a.name == "epsilon").f = 1.5e-6
    onnx.save(model, tmp_path / "eps.onnx")
    changed = r"blocks\.0\.norm1: epsilon 1.5e-06, in the architecture 1e-06"
    with pytest.raises(InputError, match=changed):
        recover(find(VIT), tmp_path / "eps.onnx")


def test_a_function_of_the_file_is_not_overlooked(vit: Path, tmp_path: Path) -> None:
    """A file may give a standard operation another meaning while its nodes stay the same."""
    model = onnx.load(vit)
    body = onnx.helper.make_node("Relu", ["x"], ["y"])
    model.functions.append(
        onnx.helper.make_function("", "Gelu", ["x"], ["y"], [body], model.opset_import)
    )
    onnx.save(model, tmp_path / "m.onnx")
    assert not is_as_written(str(tmp_path / "m.onnx"))


def test_convert_recognises_a_rewritten_file_and_does_not_believe_it(
    vit: Path, tmp_path: Path
) -> None:
    """Without ARCH and --from the same holds: rewritten weights are found, changes refused."""
    done = porter.convert(None, rewritten_file(VIT, "onnxslim", tmp_path), tmp_path / "a.pth",
                          verify=False)  # fmt: skip
    assert any(BIT_FOR_BIT in note for note in done.origin.notes)
    assert differences(codecs.read(str(tmp_path / "a.pth")), VIT) == []
    model = onnx.load(vit)
    norm = next(n for n in model.graph.node if n.op_type == "LayerNormalization")
    next(a for a in norm.attribute if a.name == "epsilon").f = 1e-5
    onnx.save(model, tmp_path / "eps.onnx")
    for chosen, from_ in ((None, None), (VIT, "torch")):
        with pytest.raises(InputError, match="epsilon 1e-05"):
            porter.convert(chosen, tmp_path / "eps.onnx", tmp_path / "b.pth", from_=from_)
        assert not (tmp_path / "b.pth").exists()


def test_changed_values_are_named(vit: Path, tmp_path: Path) -> None:
    """Another bias and another graph: what the file computes comes back, and what differs."""
    _basic(vit, tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    bias = next(i for i in model.graph.initializer if i.name == "blocks.3.attn.proj.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.zeros(192, np.float32), bias.name))
    onnx.save(model, tmp_path / "m.onnx")
    found = recover(find(VIT), tmp_path / "m.onnx")
    assert differences(found.state, VIT) == ["blocks.3.attn.proj.bias"]
    assert (
        "changed 1 of the 152 weights that porter wrote (blocks.3.attn.proj.bias)" in found.how[0]
    )


def test_a_quantised_file_is_refused_for_what_it_is(vit: Path, tmp_path: Path) -> None:
    """Its weights were rounded to eight bits: they cannot come back."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _prepared(vit, tmp_path / "p.onnx")
        quantize_dynamic(tmp_path / "p.onnx", tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"is quantised .*its weights were rounded"):
        recover(find(VIT), tmp_path / "m.onnx")


def test_a_rewritten_export_that_gives_probabilities_comes_back(vit: Path, tmp_path: Path) -> None:
    """Its metadata state the softmax, and the run shows it; one that takes pixels is refused."""
    source = vit.with_suffix(".safetensors")
    porter.convert(VIT, source, tmp_path / "p.onnx", onnx={"with_softmax": True}, **CARE)
    _basic(tmp_path / "p.onnx", tmp_path / "m.onnx")
    found = recover(find(VIT), tmp_path / "m.onnx")
    assert differences(found.state, VIT) == []
    assert "proven" in found.how[-1]
    porter.convert(VIT, source, tmp_path / "b.onnx", onnx={"with_preprocessing": True}, **CARE)
    assert differences(recover(find(VIT), tmp_path / "b.onnx").state, VIT) == []
    _basic(tmp_path / "b.onnx", tmp_path / "c.onnx")
    with pytest.raises(InputError, match="takes pixels, and its graph was changed"):
        recover(find(VIT), tmp_path / "c.onnx")


def test_activations_of_old_operator_sets_are_recognised(tmp_path: Path) -> None:
    """Before opset 14 HardSwish is a product, and the layers around it are found all the same."""
    name = "pp-lcnet-x0_25-textline-ori"
    codecs.write(seeded(find(name)), str(tmp_path / "a.safetensors"), "safetensors")
    porter.convert(name, tmp_path / "a.safetensors", tmp_path / "a.onnx", onnx={"opset": 13},
                   **CARE)  # fmt: skip
    model = onnx.load(tmp_path / "a.onnx")
    assert "HardSwish" not in {node.op_type for node in model.graph.node}
    model.graph.node.append(onnx.helper.make_node("Identity", ["logits"], ["scores"]))
    model.graph.output[0].name = "scores"
    onnx.save(model, tmp_path / "b.onnx")
    found = recover(find(name), tmp_path / "b.onnx")
    assert differences(found.state, name) == []


def test_weights_that_became_nodes_and_lost_their_names_come_back(
    vit: Path, tmp_path: Path
) -> None:
    """Constant nodes in place of initialisers, every value renamed, no metadata."""
    model = onnx.load(vit)
    graph, names = model.graph, dict[str, str]()
    constants = [
        onnx.helper.make_node("Constant", [], [each.name], value=each) for each in graph.initializer
    ]
    nodes = [*constants, *graph.node]
    del graph.initializer[:], graph.node[:], graph.value_info[:], model.metadata_props[:]
    for number, node in enumerate(nodes):
        node.name = f"n{number}"
        for values in (node.input, node.output):
            values[:] = [names.setdefault(n, f"v{len(names)}") if n else n for n in values]
    graph.node.extend(nodes)
    for value in (*graph.input, *graph.output):
        value.name = names[value.name]
    onnx.save(model, tmp_path / "m.onnx")
    found = recover(find(VIT), tmp_path / "m.onnx")
    assert differences(found.state, VIT) == []


def test_operations_that_an_optimiser_fused_are_named_first(vit: Path, tmp_path: Path) -> None:
    """ONNX Runtime's optimiser for transformers: the message is the reason and the remedy."""
    from onnxruntime.transformers import optimizer as fusing

    model = fusing.optimize_model(str(vit), "vit", num_heads=3, hidden_size=192, opt_level=0)
    model.save_model_to_file(str(tmp_path / "m.onnx"))
    with pytest.raises(InputError, match=r"m.onnx: an optimiser has fused operations \(.*Skip"):
        recover(find(VIT), tmp_path / "m.onnx")


def test_a_batch_that_is_free_in_name_only_is_noted(vit: Path, tmp_path: Path) -> None:
    """A tool wrote a symbol over the batch of one of a graph that computes for one picture."""
    source = vit.with_suffix(".safetensors")
    porter.convert(VIT, source, tmp_path / "a.onnx", onnx={"batch": 1}, **CARE)
    model = onnx.load(tmp_path / "a.onnx")
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    model.graph.node[0].name = "another"
    model.graph.node.append(onnx.helper.make_node("Identity", ["logits"], ["scores"]))
    model.graph.output[0].name = "scores"
    onnx.save(model, tmp_path / "b.onnx")
    found = recover(find(VIT), tmp_path / "b.onnx")
    assert differences(found.state, VIT) == []
    assert "declares a free batch, and runs with one picture only" in found.how[-1]
