"""A template's graph in every operator set: sound, equal in what it computes, and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx.helper import find_min_ir_version_for, make_opsetid

from porter.errors import UsageError
from porter.onnx.export import opsets
from porter.onnx.export.model import Sheet, pieces
from porter.onnx.export.template import template
from porter.onnx.export.transform import half, sized, transposed
from porter.onnx.export.write import Options, export
from porter.onnx.graph.values import FLOAT, FLOAT16, Graph, Node, Value, constant
from porter.onnx.recover.read import recover
from porter.tensors import casts
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import all_variants, find
from porter.zoo.seeded import seeded

GRAPHS = {
    "shunted-t", "ceit-tiny-224", "ceit-rishikksh20-lca", "cait-xxs24-224", "vit-small-r26-s32-224",
    "vit-labml-cifar10", "vit-tiny-relu-224", "deit-tiny-distilled-224", "deit3-small-224",
    "swin-tiny-w7-224", "pvt-tiny", "pvtv2-b2-li", "dynamic-dwnet-tiny", "dy-resnet18",
    "vit-tiny-linformer-224", "pp-lcnet-x0_25-textline-ori", "hgnet-v2-l",
    "pp-ocrv5-mobile-det", "pp-ocrv5-mobile-rec",
}  # fmt: skip
"""A packed template of every family, with every operation that is written in another way."""
LIMIT = 1e-5
"""Normalised difference to opset 20 in ONNX Runtime; the largest measured is 1.4e-6."""


def test_every_family_and_every_rule_is_tested() -> None:
    """A family that is added is tested here, as is each operation that must be rewritten."""
    modelled = {a.family for a in all_variants().values() if a.module}
    assert {find(name).family for name in GRAPHS} == modelled
    ops = {node.op for name in GRAPHS for node in template(find(name)).model.graph.nodes}
    assert set(opsets.RULES) - ops == {"Squeeze"}


def model(graph: Graph, opset: int) -> onnx.ModelProto:
    """Return a graph whose weights are inputs as onnx reads it."""
    sheet = Sheet(graph, opsets.LOWEST_IR[opset], {"": opset})
    made = b"".join(piece for piece in pieces(sheet, {}, {}) if isinstance(piece, bytes))
    return onnx.load_from_string(made)


@pytest.mark.parametrize("name", sorted(GRAPHS))
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_a_graph_is_sound_in_every_opset(name: str, dtype: str) -> None:
    """onnx's checker passes every operator, its attributes, types and shapes in each set."""
    graph = sized(transposed(template(find(name)).model.graph)[0], {"classes": 7})
    if dtype == "fp16":
        graph = half(graph, wide_ends=True)
    code = FLOAT16 if dtype == "fp16" else FLOAT
    for opset in (11, 12, 13, 14, 16, 17, 19, 23) if dtype == "fp32" else (11, 13, 16):
        onnx.checker.check_model(
            model(opsets.written_in(graph, opset, code), opset), full_check=True
        )


@pytest.mark.parametrize("opset", opsets.OPSETS)
def test_a_file_has_the_lowest_version_that_its_opset_allows(opset: int) -> None:
    """What a runtime of the time of an operator set reads."""
    assert opsets.LOWEST_IR[opset] == find_min_ir_version_for([make_opsetid("", opset)])


def run(path: Path, image: np.ndarray) -> np.ndarray:
    """Return what ONNX Runtime computes."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image})[0].astype(np.float64)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("cait-xxs24-224", "fp32"),
        ("dynamic-dwnet-tiny", "fp32"),
        ("deit-tiny-224", "fp16"),
        ("pp-lcnet-x0_25-textline-ori", "fp32"),
    ],
)
def test_every_opset_computes_the_same_and_comes_back(
    name: str, dtype: str, tmp_path: Path
) -> None:
    """A Softmax over another axis, sums, ranges, LayerNorm and GELU in pieces, in both types."""
    architecture = find(name)
    state = casts.cast(seeded(architecture), dtype)[0]
    size, classes = architecture.image_size, architecture.num_classes
    image = np.random.default_rng(0).standard_normal((1, 3, *architecture.sides()), np.float32)
    found = []
    for opset in (20, 23, 17, 13, 11):
        path = tmp_path / f"{opset}.onnx"
        options = Options(opset=opset, io_dtype="fp32" if dtype == "fp16" else None)
        export(architecture, state, path, num_classes=classes, image_size=size, options=options)
        found.append(run(path, image))
        back = recover(architecture, path).state
        assert [(n, t.shape) for n, t in back.items()] == [(n, t.shape) for n, t in state.items()]
        assert all(back[n].read().tobytes() == t.read().tobytes() for n, t in state.items())
        path.unlink()
    limit = LIMIT if dtype == "fp32" else 2e-2  # measured 6.9e-3: fp16 is rounded elsewhere
    scale = np.sqrt((found[0] ** 2).mean())
    assert max(np.abs(other - found[0]).max() for other in found[1:]) / scale < limit


@pytest.mark.parametrize(
    ("start", "end"), [(0, None), (0, 1), (1, 3), (-1, None), (1, None), (0, -1)]
)
def test_a_part_of_a_shape_is_cut_out_of_the_whole(start: int, end: int | None) -> None:
    """Before opset 15 Shape has no start and no end."""
    attributes = {"start": opsets.integer_attribute("start", start)}
    if end is not None:
        attributes["end"] = opsets.integer_attribute("end", end)
    graph = Graph(
        "g", [Node("Shape", ["x"], ["y"], attributes=attributes)],
        [Value("x", FLOAT, (2, 3, 4, 5))], [Value("y", 7, (len((2, 3, 4, 5)[start:end]),))],
    )  # fmt: skip
    old = model(opsets.written_in(graph, 11, FLOAT), 11)
    session = ort.InferenceSession(old.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.zeros((2, 3, 4, 5), np.float32)})
    assert found.tolist() == list((2, 3, 4, 5)[start:end])


def test_an_empty_tensor_needs_opset_14() -> None:
    """A size of zero, meant as such, is refused where it would mean "as it was"."""
    literal = {"allowzero": opsets.integer_attribute("allowzero", 1)}
    graph = Graph(
        "g", [constant("s", np.array([0, 3])), Node("Reshape", ["x", "s"], ["y"], "r")],
        [Value("x", FLOAT, (0, 3))], [Value("y", FLOAT, (0, 3))],
    )  # fmt: skip
    graph.nodes[1] = replace(graph.nodes[1], attributes=literal)
    with pytest.raises(UsageError, match="opset 14"):
        opsets.written_in(graph, 13, FLOAT)
    assert opsets.written_in(graph, 14, FLOAT) == graph


def test_linear_weights_are_as_a_matmul_takes_them(tmp_path: Path) -> None:
    """Every MatMul by a weight reads an initialiser: a Transpose of one is not left."""
    architecture = find("deit-tiny-224")
    state = seeded(architecture)
    export(architecture, state, tmp_path / "m.onnx", num_classes=1000, image_size=224)
    made = onnx.load(tmp_path / "m.onnx")
    weights = {one.name: list(one.dims) for one in made.graph.initializer}
    assert not [n for n in made.graph.node if n.op_type == "Transpose" and n.input[0] in weights]
    read = [n.input[1] for n in made.graph.node if n.op_type == "MatMul" and n.input[1] in weights]
    assert len(read) == 4 * 12
    assert all(weights[name] == list(state[name[:-2]].shape[::-1]) for name in read)


def test_a_weight_that_is_read_twice_stays_as_it_is() -> None:
    """Only what MatMul alone reads, on its right side, is stored transposed."""
    perm = {"perm": opsets.integers_attribute("perm", [1, 0])}

    def found(*more: Node, inputs: tuple[str, str] = ("x", "t")) -> tuple[str, ...]:
        nodes = [Node("Transpose", ["w"], ["t"], attributes=perm), Node("MatMul", [*inputs], ["y"])]
        given = [Value("x", FLOAT, (3, 4)), Value("w", FLOAT, (5, 4))]
        return transposed(Graph("g", [*nodes, *more], given, []))[1]

    assert found() == ("w",)
    assert found(Node("MatMul", ["z", "t"], ["u"])) == ("w",)
    assert found(Node("Relu", ["w"], ["z"])) == ()
    assert found(Node("Relu", ["t"], ["z"])) == ()
    assert found(inputs=("t", "x")) == ()
    assert found(inputs=("t", "t")) == ()


def test_a_file_that_lists_no_transposed_weights_still_comes_back(tmp_path: Path) -> None:
    """Files of earlier versions have the weights as PyTorch keeps them."""
    architecture = find("deit-tiny-224")
    state = seeded(architecture)
    export(architecture, state, tmp_path / "m.onnx", num_classes=1000, image_size=224)
    made = onnx.load(tmp_path / "m.onnx")
    for one in made.graph.initializer:
        if one.name.endswith(".T"):
            array = np.ascontiguousarray(onnx.numpy_helper.to_array(one).T)
            one.CopyFrom(onnx.numpy_helper.from_array(array, one.name[:-2]))
    kept = [entry for entry in made.metadata_props if entry.key != "porter.transposed"]
    del made.metadata_props[:]
    made.metadata_props.extend(kept)
    onnx.save(made, tmp_path / "old.onnx")
    back = recover(architecture, tmp_path / "old.onnx").state
    assert same(back, state)


def same(found: StateDict, expected: StateDict) -> bool:
    """Whether two state dicts agree in names, shapes and bytes."""
    return list(found) == list(expected) and all(
        found[n].shape == t.shape and found[n].read().tobytes() == t.read().tobytes()
        for n, t in expected.items()
    )
