"""Inference models of Paddle, in both forms: every tensor under its name, every damage refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from porter import codecs
from porter.codecs.paddle import program as programs
from porter.commands.inspect import inspect
from porter.commands.repack import repack
from porter.errors import InputError, PorterError
from tests.codecs.mutations import damaged
from tests.codecs.paddle.programs import SUFFIX, arrays, save


@pytest.fixture(scope="session", params=[True, False], ids=["PIR", "ProgramDesc"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of a small network that Paddle saved."""
    return save(tmp_path_factory.mktemp("program"), pir=request.param)


@pytest.fixture
def copy(program: Path, tmp_path: Path) -> Path:
    """The same in a folder where it may be damaged."""
    for path in (program, program.with_suffix(".pdiparams")):
        shutil.copy(path, tmp_path)
    return tmp_path / program.name


def test_either_file_gives_every_tensor_under_its_name(program: Path, tmp_path: Path) -> None:
    """Program and stream are read together, whichever is given, and repacked bit for bit."""
    truth = arrays(program)
    for index, path in enumerate((program, program.with_suffix(".pdiparams"))):
        inspection = inspect(path)
        assert inspection.origin.format == "paddle-inference"
        assert "inference model of Paddle" in inspection.origin.notes[0]
        output = tmp_path / f"{index}.safetensors"
        repack(path, output)
        found = codecs.read(str(output)).arrays()
        assert found.keys() == truth.keys()
        for name, array in truth.items():
            assert found[name].dtype == array.dtype
            assert found[name].shape == array.shape
            assert found[name].tobytes() == array.tobytes()


HALF = """
from paddle import nn
class Net(nn.Layer):
    def __init__(self):
        super().__init__()
        self.low = self.create_parameter([4, 3], dtype="bfloat16")
        self.scalar = self.create_parameter([], dtype="float32")
        self.register_buffer("table", paddle.arange(5))
    def forward(self, x):
        y = x @ self.low.astype("float32") * self.scalar
        return y + self.table.sum().astype("float32")
model = Net()
"""


def test_dtypes_scalars_and_buffers_are_read(tmp_path: Path) -> None:
    """bfloat16, a scalar and a buffer of whole numbers have their dtypes and shapes."""
    state = codecs.read(str(save(tmp_path, pir=True, build=HALF, shape="[2, 4]")))
    kinds = sorted((tensor.dtype.name, tensor.shape) for tensor in state.values())
    assert kinds == [("bfloat16", (4, 3)), ("float32", ()), ("int64", (5,))]
    (table,) = (tensor for tensor in state.values() if tensor.dtype.name == "int64")
    assert table.read().tolist() == [0, 1, 2, 3, 4]


def test_a_file_without_the_other_says_which_is_needed(copy: Path) -> None:
    """Program and stream need each other."""
    stream = copy.with_suffix(".pdiparams")
    other = stream.rename(stream.with_name("other.pdiparams"))
    with pytest.raises(PorterError, match=r"put inference\.pdiparams next to it"):
        codecs.read(str(copy))
    with pytest.raises(InputError, match=r"put other\.json or other\.pdmodel next to it"):
        codecs.read(str(other))


def test_a_stream_of_another_length_is_refused(copy: Path) -> None:
    """Bytes after the last tensor, and every cut, are refused."""
    stream = copy.with_suffix(".pdiparams")
    data = stream.read_bytes()
    stream.write_bytes(data + b"\0")
    with pytest.raises(InputError, match="the stream goes on at byte"):
        codecs.read(str(copy))
    for size in range(0, len(data), 7):
        stream.write_bytes(data[:size])
        with pytest.raises(InputError):
            codecs.read(str(copy))


def test_a_cut_program_is_refused(copy: Path) -> None:
    """A program that was cut anywhere is refused."""
    data = copy.read_bytes()
    for size in range(0, len(data), 97):
        copy.write_bytes(data[:size])
        with pytest.raises(InputError):
            codecs.read(str(copy))


def test_stream_and_program_must_agree(copy: Path) -> None:
    """A tensor with another shape than the program says is refused by name."""
    stream = copy.with_suffix(".pdiparams")
    data = bytearray(stream.read_bytes())
    at = data.index(b"\x08\x05\x10\x04")  # float32 [4] of the batch norm
    data[at + 3] = 3
    stream.write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"batch_norm2d_0\.b_0 is float32 \[3\], the program says"):
        codecs.read(str(copy))


PIR: dict[str, tuple[object, str]] = {
    "another magic": ({"base_code": {"magic": "x"}}, "not a program of Paddle's PIR"),
    "no code": ({"base_code": 1}, "not a program of Paddle's PIR"),
    "no program": ({"base_code": {"magic": "pir"}}, "an entry is missing"),
    "blocks that are text": (
        {"base_code": {"magic": "pir"}, "program": {"regions": [{"blocks": "x"}]}},
        "an entry is missing",
    ),
}


def pir(*parameters: object) -> dict[str, object]:
    """Return a program with these operations."""
    block = {"ops": list(parameters)}
    return {"base_code": {"magic": "pir"}, "program": {"regions": [{"blocks": [block]}]}}


def parameter(name: object, dtype: str = "0.t_f32", dims: object = (2,)) -> dict[str, object]:
    """Return the operation of a parameter."""
    kind = {"#": "0.t_dtensor", "D": [{"#": dtype}, dims, "NCHW", [], 0]}
    return {"#": "p", "A": [0, 1, 1, name], "O": {"%": 1, "TT": kind}}


PIR |= {
    "no parameters": (pir(), "without parameters"),
    "twice": (pir(parameter("w"), parameter("w")), "two parameters are called w"),
    "no name": (pir(parameter("")), "a parameter is called nothing"),
    "control characters": (pir(parameter("\x1b[2J")), "a parameter is called"),
    "a number as a name": (pir(parameter(3)), "is not a dense tensor"),
    "a negative shape": (pir(parameter("w", dims=[-1, 2])), "w has the shape"),
    "a large shape": (pir(parameter("w", dims=[1 << 40, 1 << 40])), "w has the shape"),
    "a shape of text": (pir(parameter("w", dims=["2"])), "w has no shape"),
    "an unknown type": (pir(parameter("w", "0.t_zebra")), "w has a type that porter does not"),
}


@pytest.mark.parametrize("kind", PIR)
def test_malformed_programs_of_pir_are_refused(kind: str, tmp_path: Path) -> None:
    """Every entry that is read is checked."""
    body, message = PIR[kind]
    path = tmp_path / "inference.json"
    path.write_text(json.dumps(body))
    path.with_suffix(".pdiparams").write_bytes(b"")
    with pytest.raises(InputError, match=message):
        codecs.read(str(path))


def test_json_of_another_form_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that come twice, deep nesting and large files are refused."""
    path = tmp_path / "inference.json"
    path.with_suffix(".pdiparams").write_bytes(b"")
    for text in ('{"base_code":1,"base_code":2}', '{"base_code":' + "[" * 100_000):
        path.write_text(text)
        with pytest.raises(InputError, match="not JSON, or cut short"):
            codecs.read(str(path))
    monkeypatch.setattr(programs, "LARGEST", 10)
    with pytest.raises(InputError, match="10 is the limit"):
        codecs.read(str(path))


_SUPPRESSED = [HealthCheck.function_scoped_fixture]


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=_SUPPRESSED)
@given(data=damaged([b"".join([bytes(16), b"\4\0\0\0\x08\5\x10\2", bytes(8)])]))
def test_a_damaged_stream_never_surprises(data: bytes, tmp_path: Path) -> None:
    """Whatever is done to a stream, it is read or refused, and nothing else."""
    path = tmp_path / "inference.json"
    path.write_text(json.dumps(pir(parameter("w"))))
    path.with_suffix(".pdiparams").write_bytes(data)
    try:
        codecs.read(str(path)).arrays()
    except PorterError:
        return


def test_the_suffixes_are_those_that_are_looked_for() -> None:
    """The stream finds the programs of both forms."""
    from porter.codecs.paddle.inference import PROGRAMS

    assert set(PROGRAMS) == set(SUFFIX.values())
