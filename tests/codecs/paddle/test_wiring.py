"""Loops and branches of programs: what reads what in them, in both forms that Paddle writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from porter import codecs
from porter.codecs.paddle.operations import program
from porter.codecs.paddle.wiring import Step, steps
from porter.errors import InputError
from porter.storage.input_file import InputFile
from tests.codecs.paddle import programs

LOOP = """
from paddle import nn
class Net(nn.Layer):
    def __init__(self):
        super().__init__()
        self.first, self.cell, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.other = nn.Linear(6, 6)
    def forward(self, x):
        x, found = self.first(x), paddle.zeros([x.shape[0], 6])
        most = paddle.to_tensor(3)
        for i in range(most):
            if (found > 9).all():
                found = self.other(x)
            else:
                found = self.cell(found + x)
            if (found > 5).all():
                break
        return self.last(found)
model = Net()
"""
OLD = """
import sys
import paddle
from paddle.base.layer_helper import LayerHelper
paddle.enable_static()

def step(kind, result="float32", **inputs):
    helper = LayerHelper(kind)
    out = helper.create_variable_for_type_inference(result)
    helper.append_op(type=kind, inputs=inputs, outputs={"Out": out}, attrs={})
    return out

whole = paddle.static.Program()
start = paddle.static.Program()
with paddle.pir_utils.OldIrGuard(), paddle.static.program_guard(whole, start):
    x = paddle.static.data("x", [-1, 4], "float32")
    first, cell = (paddle.static.create_parameter([4, 4], "float32", name=n) for n in ("a", "b"))
    most = paddle.full([1], 3, "int64")

    def body(i, h):
        return [paddle.increment(i), step("matmul_v2", X=h, Y=cell)]

    held = [paddle.full([1], 0, "int64"), step("matmul_v2", X=x, Y=first)]
    _, h = paddle.static.nn.while_loop(
        lambda i, h: step("less_than", "bool", X=i, Y=most), body, held)
    out = step("matmul_v2", X=h, Y=first)
    runner = paddle.static.Executor()
    runner.run(start)
    paddle.static.save_inference_model(sys.argv[1], [x], [out], runner, program=whole)
"""


@pytest.fixture(scope="module")
def looping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program of PIR with a loop, and branches in it."""
    folder = tmp_path_factory.mktemp("looping")
    return programs.save(folder, pir=True, build=LOOP, shape="[None, 4]")


def wired(path: Path) -> list[Step]:
    """Return the steps of a program."""
    return steps(program(InputFile(path)), list(codecs.read(str(path))))


def test_a_loop_is_wired_as_one_pass_of_it(looping: Path) -> None:
    """It begins with what is carried into it; both branches are read, and what comes after both."""
    found = wired(looping)
    assert [step.label for step in found] == ["matmul", "add"] * 4
    names = [step.parameters[0].rpartition(".")[0] for step in found]
    assert [names.index(name) // 2 for name in sorted(set(names))] == [0, 2, 3, 1]
    assert [step.before for step in found] == [
        (), (0,), (1,), (2,), (1,), (4,), (3, 5), (6,),
    ]  # fmt: skip
    assert program(InputFile(looping)).branches == "while"


def test_a_loop_of_the_old_form_is_wired_alike(tmp_path: Path) -> None:
    """A ProgramDesc has its loops in blocks that read and write the outer variables."""
    script, env = tmp_path / "make.py", {**os.environ, "FLAGS_enable_pir_api": "0"}
    script.write_text(OLD)
    subprocess.run([sys.executable, script, tmp_path / "inference"], check=True, env=env,
                   capture_output=True)  # fmt: skip
    path = tmp_path / "inference.pdmodel"
    assert wired(path) == [
        Step("matmul", ("a",), ()), Step("matmul", ("b",), (0,)), Step("matmul", ("a",), (1,)),
    ]  # fmt: skip
    assert program(InputFile(path)).branches == "while"
    body = path.read_bytes()
    sub_block = b"\x0a\x09sub_block\x10\x08\x60"  # its name, its type, the number of the block
    assert body.count(sub_block + b"\x01") == 1
    for number in (b"\x00", b"\x02"):  # the block that is being read, and one that is not there
        path.write_bytes(body.replace(sub_block + b"\x01", sub_block + number))
        with pytest.raises(InputError, match="malformed Paddle program"):
            program(InputFile(path))


@pytest.mark.parametrize("depth", [4, 40])
def test_blocks_within_blocks_are_limited(depth: int, looping: Path, tmp_path: Path) -> None:
    """No program is deeper than the limit."""
    whole = json.loads(looping.read_text())
    entry: dict[str, Any] = {"#": "1.relu", "I": [], "O": [], "A": []}
    for _ in range(depth):
        blocks = [{"args": [], "ops": [entry]}]
        entry = {"#": "1.if", "I": [], "O": [], "A": [], "regions": [{"blocks": blocks}]}
    whole["program"]["regions"][0]["blocks"][0]["ops"] = [entry]
    path = tmp_path / "deep.json"
    path.write_text(json.dumps(whole))
    if depth < 8:
        assert [found.kind for found in program(InputFile(path)).operations] == ["relu"]
        return
    with pytest.raises(InputError, match="malformed Paddle program"):
        program(InputFile(path))
