"""ONNX files without end or measure end in time and in memory, in one line."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from porter.errors import InputError, PorterError
from porter.frameworks import exchange
from porter.frameworks.process import MEMORY, Limit, Worker
from porter.onnx.graph import parse
from porter.storage.input_file import InputFile

IMAGE = [1, 3, 8, 8]
BIG = 1 << 40


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], **options: object) -> object:
    return helper.make_node(op, inputs, outputs, **options)


def value(name: str, shape: Sequence[int | None], code: int = TensorProto.FLOAT) -> object:
    return helper.make_tensor_value_info(name, code, shape)


def number(name: str, values: object) -> object:
    return node("Constant", [], [name], value=numpy_helper.from_array(np.array(values), name))


def model(nodes: Sequence[object], functions: Sequence[object] = ()) -> onnx.ModelProto:
    """Return a model of one picture that is `nodes` from `image` to `y`."""
    weight = numpy_helper.from_array(np.ones((192, 2), np.float32), "weight")
    first = [node("Flatten", ["image"], ["f"])]
    last = [node("MatMul", ["y", "weight"], ["logits"])]
    graph = helper.make_graph(
        [*first, *nodes, *last], "g", [value("image", IMAGE)], [value("logits", [1, 2])], [weight]
    )
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=domains, functions=functions, ir_version=8)


def body(op: str, rows: int | None, inputs: Sequence[str], **options: object) -> object:
    """Return a loop's body that never asks to end."""
    return helper.make_graph(
        [node("Identity", ["c"], ["co"]), node(op, inputs, ["so"], **options)], "body",
        [value("i", [], TensorProto.INT64), value("c", [], TensorProto.BOOL),
         value("s", [rows, 192])],
        [value("co", [], TensorProto.BOOL), value("so", [rows, 192])],
    )  # fmt: skip


def endless() -> onnx.ModelProto:
    loop = node("Loop", ["n", "", "f"], ["y"], body=body("Sigmoid", 1, ["s"]))
    return model([number("n", np.int64(1 << 62)), loop])


def doubling() -> onnx.ModelProto:
    loop = node("Loop", ["n", "", "f"], ["z"], body=body("Concat", None, ["s", "s"], axis=0))
    return model([
        number("n", np.int64(60)), loop, node("ReduceMax", ["z"], ["y"], axes=[0], keepdims=1)
    ])  # fmt: skip


def filled() -> onnx.ModelProto:
    shape = number("s", np.array([BIG]))
    return model([
        shape, node("ConstantOfShape", ["s"], ["k"]),
        node("ReduceMax", ["k"], ["m"], keepdims=0), node("Add", ["f", "m"], ["y"]),
    ])  # fmt: skip


def copied(op: str) -> onnx.ModelProto:
    shape = number("s", np.array([BIG, 192 if op == "Expand" else 1]))
    biggest = node("ReduceMax", ["k"], ["y"], axes=[0], keepdims=1)
    return model([shape, node(op, ["f", "s"], ["k"]), biggest])


def resized() -> onnx.ModelProto:
    return model([
        number("s", np.array([1, 3, 1 << 24, 1 << 24])),
        node("Resize", ["image", "", "", "s"], ["k"]),
        node("ReduceMax", ["k"], ["m"], keepdims=0), node("Add", ["f", "m"], ["y"]),
    ])  # fmt: skip


def counted() -> onnx.ModelProto:
    return model([
        number("a", np.int64(0)), number("b", np.int64(BIG)), number("d", np.int64(1)),
        node("Range", ["a", "b", "d"], ["k"]), node("ReduceMax", ["k"], ["w"], keepdims=0),
        node("Cast", ["w"], ["m"], to=1), node("Add", ["f", "m"], ["y"]),
    ])  # fmt: skip


def local(name: str, nodes: Sequence[object]) -> object:
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, ["a"], ["c"], nodes, domains)


def multiplying() -> onnx.ModelProto:
    """Forty functions that each call the next one twice: a trillion operations."""
    calls = [
        local(f"f{i}", [node(f"f{i + 1}", ["a"], ["b"], domain="local"),
                        node(f"f{i + 1}", ["b"], ["c"], domain="local")])
        for i in range(40)
    ]  # fmt: skip
    calls.append(local("f40", [node("Sigmoid", ["a"], ["c"])]))
    return model([node("f0", ["f"], ["y"], domain="local")], calls)


def recursive() -> onnx.ModelProto:
    call = local("g", [node("g", ["a"], ["c"], domain="local")])
    return model([node("g", ["f"], ["y"], domain="local")], [call])


def cyclic() -> onnx.ModelProto:
    return model([node("Add", ["f", "z"], ["y"]), node("Sigmoid", ["y"], ["z"])])


def doubled() -> onnx.ModelProto:
    return model([node("Sigmoid", ["f"], ["y"]), node("Relu", ["f"], ["y"])])


def unknown() -> onnx.ModelProto:
    return model([node("Evil", ["f"], ["y"], domain="local")])


ATTACKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "endless loop": endless, "doubling loop": doubling, "ConstantOfShape": filled,
    "Expand": lambda: copied("Expand"), "Tile": lambda: copied("Tile"), "Resize": resized,
    "Range": counted, "multiplying functions": multiplying, "recursive function": recursive,
    "cycle": cyclic, "two of one name": doubled, "unknown operation": unknown,
}  # fmt: skip
SECONDS = 2.0
MEMORY_ONLY = ("doubling loop", "ConstantOfShape", "Expand", "Tile", "Range")
"""What would end in time by nothing but the limit of memory."""


@pytest.fixture
def noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A batch for the model; memory is limited to one GiB."""
    monkeypatch.setenv(MEMORY, "1")
    exchange.save(tmp_path / "noise", {"a": np.ones(IMAGE, np.float32)}, {})
    return tmp_path / "noise"


def written(name: str, folder: Path) -> Path:
    path = folder / "hostile.onnx"
    path.write_bytes(ATTACKS[name]().SerializeToString())
    return path


def run(path: Path, noise: Path, seconds: float) -> None:
    with Worker("onnxruntime") as worker:
        worker.request("hello", device="cpu")
        worker.limit = Limit(str(path), seconds)
        worker.request("load", weights=str(path))
        worker.request("run", inputs=str(noise), output=f"{path}.out", precision="float32")


def tidy(path: Path, seconds: float) -> None:
    with Worker("onnx-tools") as worker:
        worker.limit = Limit(str(path), seconds)
        worker.request("tidy", path=str(path), output=f"{path}.out", sides=[8, 8])


def is_refused(error: PorterError, path: Path) -> bool:
    """Whether it is one line that names the file, with exit code 2."""
    text = str(error)
    return error.exit_code == 2 and text.startswith(str(path)) and "\n" not in text


@pytest.mark.parametrize("name", ATTACKS)
def test_the_runtime_ends_in_time_and_in_memory(name: str, noise: Path, tmp_path: Path) -> None:
    """Refused in one line, by whatever loads or runs it."""
    path, begin = written(name, tmp_path), time.perf_counter()
    with pytest.raises(PorterError) as caught:
        run(path, noise, 20 * SECONDS if name in MEMORY_ONLY else SECONDS)
    assert is_refused(caught.value, path)
    assert time.perf_counter() - begin < 30 * SECONDS  # the start of the process included
    assert name not in MEMORY_ONLY or "does not run it" in caught.value.message


@pytest.mark.parametrize("name", ["multiplying functions", "recursive function"])
@pytest.mark.usefixtures("noise")
def test_functions_without_end_are_not_taken_in(name: str, tmp_path: Path) -> None:
    """What looks for weights in a graph puts functions in the place of their calls."""
    path = written(name, tmp_path)
    with pytest.raises(PorterError) as caught:
        tidy(path, SECONDS)
    assert is_refused(caught.value, path)


@pytest.mark.usefixtures("noise")
def test_constants_without_measure_are_not_folded(tmp_path: Path) -> None:
    """They stay operations."""
    path = written("ConstantOfShape", tmp_path)
    tidy(path, 60 * SECONDS)
    assert Path(f"{path}.out").stat().st_size < 1 << 20


def test_a_graph_of_too_many_nodes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are counted while they are read."""
    monkeypatch.setattr(parse, "_MOST", 10)
    nodes = [node("Sigmoid", [f"v{i}"], [f"v{i + 1}"]) for i in range(20)]
    (tmp_path / "m.onnx").write_bytes(model(nodes).SerializeToString())
    with InputFile(tmp_path / "m.onnx") as file, pytest.raises(InputError, match="more than 10"):
        parse.parse(file)
