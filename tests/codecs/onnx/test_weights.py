"""ONNX initialisers: what `onnx` reads, and every rule that it does not hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from porter import codecs
from porter.codecs.onnx import weights
from porter.errors import InputError
from porter.storage.input_file import InputFile
from porter.tensors.dtypes import DTYPES

FIELDS = [d for d in DTYPES.values() if d.onnx is not None]


def model(*tensors: TensorProto) -> onnx.ModelProto:
    """Return a model with initialisers and one node."""
    node = helper.make_node("Identity", ["x"], ["y"])
    shape = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([node], "g", [shape], [shape], list(tensors))
    return helper.make_model(graph)


def read(path: Path) -> dict[str, np.ndarray]:
    return weights.read(InputFile(path)).arrays()


@pytest.mark.parametrize("dtype", FIELDS, ids=str)
@pytest.mark.parametrize("raw", [True, False])
def test_every_dtype_in_both_places(dtype: object, raw: bool, tmp_path: Path) -> None:
    """Raw bytes and typed fields give the elements that were put in, bit for bit."""
    assert hasattr(dtype, "numpy")
    values = np.arange(6).astype(dtype.numpy).reshape(2, 3)
    if raw:
        tensor = helper.make_tensor("w", dtype.onnx, [2, 3], values.tobytes(), raw=True)
    else:
        plain = values.astype(np.complex128 if values.dtype.kind == "c" else np.float64)
        tensor = helper.make_tensor("w", dtype.onnx, [2, 3], plain.ravel().tolist())
    onnx.save(model(tensor), tmp_path / "a.onnx")
    found = read(tmp_path / "a.onnx")["w"]
    assert found.dtype == dtype.numpy
    assert found.tobytes() == values.tobytes()


def test_negative_numbers_in_typed_fields(tmp_path: Path) -> None:
    """Negative integers, which take ten bytes each, come through."""
    for code, dtype in ((TensorProto.INT64, np.int64), (TensorProto.INT8, np.int8)):
        values = np.array([-1, -128, 127, 0], dtype)
        onnx.save(model(helper.make_tensor("w", code, [4], values.tolist())), tmp_path / "a.onnx")
        assert np.array_equal(read(tmp_path / "a.onnx")["w"], values)


def test_metadata_is_read_and_inner_tensors_are_named(tmp_path: Path) -> None:
    """Properties of the model are the metadata; tensors of subgraphs are named."""
    made = model(numpy_helper.from_array(np.ones(2), "w"))
    value = numpy_helper.from_array(np.ones(3), "c")
    branch = helper.make_graph([], "b", [], [], [value])
    made.graph.node.append(
        helper.make_node("If", ["c"], ["y2"], then_branch=branch, else_branch=branch)
    )
    helper.set_model_props(made, {"author": "é"})
    onnx.save(made, tmp_path / "a.onnx")
    origin = codecs.read(str(tmp_path / "a.onnx")).origin
    assert origin is not None
    assert origin.metadata == {"author": "é"}
    assert origin.skipped == ("2 tensors in subgraphs (c)",)


def constant(name: str, **value: object) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], **value)


def test_weights_in_constant_nodes_are_read(tmp_path: Path) -> None:
    """Arrays in Constant nodes are read under the names of their outputs; the rest is named."""
    made = model(numpy_helper.from_array(np.ones(2, np.float32), "w"))
    half = np.arange(6, dtype=np.float16).reshape(2, 3)
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(1, np.float32)), indices, [2]
    )
    made.graph.node.extend(
        [
            constant("half", value=numpy_helper.from_array(half)),
            constant("floats", value_floats=[1.5, 2.5]),
            constant("float", value_float=1.0),
            constant("shape", value=numpy_helper.from_array(np.array([1, -1]))),
            constant("ints", value_ints=[1, 2]),
            constant("int", value_int=3),
            constant("sparse", sparse_value=sparse),
        ]
    )
    onnx.checker.check_model(made)
    onnx.save(made, tmp_path / "a.onnx")
    state = codecs.read(str(tmp_path / "a.onnx"))
    assert list(state) == ["w", "half", "floats"]
    assert state["half"].read().tobytes() == half.tobytes()
    assert state["floats"].read().tolist() == [1.5, 2.5]
    assert state.origin is not None
    assert state.origin.skipped == (
        "4 settings in Constant nodes (float, shape, ints, int)",
        "1 sparse tensors in Constant nodes (sparse)",
    )


def test_tensors_of_functions_are_named(tmp_path: Path) -> None:
    """Constants inside a function are named, also where the model has nothing else."""
    value = numpy_helper.from_array(np.ones((2, 2), np.float32))
    inner = [constant("zebra", value=value), constant("yak", value_floats=[1.0])]
    opsets = [helper.make_opsetid("", 20)]
    function = helper.make_function("my", "F", ["x"], ["zebra"], inner, opsets)
    made = model()
    made.functions.append(function)
    onnx.save(made, tmp_path / "a.onnx")
    with pytest.raises(InputError, match=r"2 tensors in functions \(zebra, yak\)"):
        codecs.read(str(tmp_path / "a.onnx"))


def test_a_name_has_one_tensor(tmp_path: Path) -> None:
    """An initialiser with the name of a Constant's output, and two such nodes, are refused."""
    value = numpy_helper.from_array(np.ones(3, np.float32))
    for tensors in ([numpy_helper.from_array(np.ones(3), "w")], []):
        made = model(*tensors)
        made.graph.node.extend([constant("w", value=value)] * (2 - len(tensors)))
        onnx.save(made, tmp_path / "a.onnx")
        with pytest.raises(InputError, match=r"w is an initialiser and|two nodes make w"):
            codecs.read(str(tmp_path / "a.onnx"))


def test_external_data_as_onnx_writes_it(tmp_path: Path) -> None:
    """External data of the reference is read at its offsets."""
    arrays = {"a": np.arange(3000.0), "b": np.ones((40, 50), np.float32)}
    made = model(*(numpy_helper.from_array(array, name) for name, array in arrays.items()))
    onnx.save(made, tmp_path / "m.onnx", save_as_external_data=True, location="m.data")
    found = read(tmp_path / "m.onnx")
    assert {n: a.tobytes() for n, a in found.items()} == {n: a.tobytes() for n, a in arrays.items()}
    origin = weights.read(InputFile(tmp_path / "m.onnx")).origin
    assert origin is not None
    assert [Path(name).name for name in origin.files] == ["m.onnx", "m.data"]


def external(**place: str) -> TensorProto:
    """Return an initialiser of four floats outside of the file."""
    tensor = TensorProto(name="w", data_type=1, dims=[4], data_location=1)
    for key, value in place.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ({"location": "w.bin", "offset": "1"}, "does not fill"),
        ({"location": "w.bin", "offset": "4", "length": "16"}, "truncated"),
        ({"location": "w.bin", "offset": "²"}, "not a number"),
        ({"location": "w.bin", "basepath": "x"}, "has no basepath"),
        ({"location": "w.bin", "checksum": "0"}, "checksum"),
        ({"location": "m.onnx"}, "model file itself"),
        ({"offset": "0"}, "no location"),
        ({"location": "../w.bin"}, "not a path below"),
    ],
)
def test_every_rule_of_external_data(place: dict[str, str], what: str, tmp_path: Path) -> None:
    """Each rule refuses the entry that breaks it."""
    (tmp_path / "w.bin").write_bytes(bytes(16))
    (tmp_path / "m.onnx").write_bytes(model(external(**place)).SerializeToString())
    with pytest.raises(InputError, match=what):
        weights.read(InputFile(tmp_path / "m.onnx"))


def test_whole_file_without_a_length(tmp_path: Path) -> None:
    """Without a length the data go to the end of their file."""
    (tmp_path / "w.bin").write_bytes(np.arange(5, dtype=np.float32).tobytes())
    made = model(external(location="w.bin", offset="4"))
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    assert read(tmp_path / "m.onnx")["w"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("tensor", "what"),
    [
        (TensorProto(name="w", data_type=3, dims=[1], int32_data=[300]), "has numbers that"),
        (TensorProto(name="w", data_type=2, dims=[1], int32_data=[-1]), "has numbers that"),
        (TensorProto(name="w", data_type=6, dims=[2], int32_data=[1, 2, 3]), "3 elements"),
        (TensorProto(name="w", data_type=6, dims=[9], int32_data=[1]), "does not fill"),
        (TensorProto(name="w", data_type=1, dims=[1] * 65, float_data=[1]), "64 dimensions"),
        (TensorProto(name="w", data_type=1, dims=[1], double_data=[1]), "field of others"),
    ],
)
def test_every_rule_of_a_tensor(tensor: TensorProto, what: str, tmp_path: Path) -> None:
    """Each rule refuses the tensor that breaks it, when it is read at the latest."""
    (tmp_path / "m.onnx").write_bytes(model(tensor).SerializeToString())
    with pytest.raises(InputError, match=what):
        read(tmp_path / "m.onnx")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_damage_is_refused_or_harmless(data: st.DataObject, tmp_path: Path) -> None:
    """A damaged model is refused, or has the weights that `onnx` sees in it."""
    good = bytearray(model(numpy_helper.from_array(np.arange(3), "w")).SerializeToString())
    at = data.draw(st.integers(0, len(good) - 1))
    good[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    (tmp_path / "m.onnx").write_bytes(good)
    try:
        found = read(tmp_path / "m.onnx")
    except InputError:
        return
    try:
        want = onnx.load_model_from_string(bytes(good)).graph.initializer
    except DecodeError:
        return  # It is in what stands beside the weights, which is walked over here.
    assert {n: (a.shape, a.tobytes()) for n, a in found.items()} == {
        t.name: (tuple(t.dims), numpy_helper.to_array(t).tobytes()) for t in want
    }
