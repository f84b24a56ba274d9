"""Every operation of a Paddle program, written as ONNX, computes what Paddle computes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from porter import codecs
from porter.codecs.paddle.operations import program
from porter.errors import InputError
from porter.onnx.program import translate
from porter.onnx.program.legacy import LEGACY
from porter.onnx.program.rules import RULES
from porter.storage.input_file import InputFile
from tests.codecs.paddle.programs import save

NET = """
from paddle import nn
import paddle.nn.functional as F
from paddle.base.layer_helper import LayerHelper
PIR = paddle.base.framework.use_pir_api()
def op(kind, function, x, **attributes):
    # Paddle 3 has the function for PIR only: an operation of a ProgramDesc is written by hand.
    if PIR or paddle.in_dynamic_mode():
        return function(x)
    helper = LayerHelper(kind)
    made = helper.create_variable_for_type_inference("float32")
    inputs = attributes.pop("inputs", {})
    helper.append_op(type=kind, inputs={"X": [x], **inputs}, outputs={"Out": [made]},
                     attrs=attributes)
    return made
class Net(nn.Layer):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2D(3, 4, 3, 2, padding=[1, 0])
        self.same = nn.Conv2D(4, 4, 3, padding="SAME", groups=2)
        self.depth = nn.Conv2D(4, 4, 3, padding=[1, 1, 1, 1], groups=4, bias_attr=False)
        self.norm = nn.BatchNorm2D(4)
        self.layer = nn.LayerNorm(4)
        self.bare = nn.LayerNorm(4, weight_attr=False, bias_attr=False)
        self.scale = self.create_parameter([4])
        self.token = self.create_parameter([1, 1, 4])
        self.register_buffer("order", paddle.to_tensor([2, 0, 1, 3]))
    def forward(self, x):
        y = self.norm(self.depth(self.same(self.conv(x))))  # N, 4, 4, 3
        t = y.flatten(2).transpose([0, 2, 1])  # N, 12, 4
        a, b = paddle.split(t, [5, -1], 1)
        c, d = paddle.chunk(t, 2, 2)
        found = [
            F.adaptive_avg_pool2d(y, 1), F.adaptive_avg_pool2d(x, 2), F.adaptive_max_pool2d(x, 1),
            F.max_pool2d(y, 2, 1), F.avg_pool2d(y, 3, 2, 1),
            F.avg_pool2d(y, 3, 2, 1, exclusive=False), self.layer(t), self.bare(t),
            F.softmax(t, 1), op("relu", F.relu, t), op("sigmoid", F.sigmoid, t),
            op("tanh", paddle.tanh, t), op("exp", paddle.exp, t), t * 2 + 1, (t + 1) * 2,
            op("sqrt", paddle.sqrt, op("abs", paddle.abs, t) + 1), op("square", paddle.square, t),
            t - self.scale, t / (self.scale + 3), t * self.scale, a, b.unsqueeze(1).squeeze(1),
            t[:, 0], t[:, 1:9:2], t[:, :, -1],
            op("matmul_v2", lambda v: paddle.matmul(v, d, transpose_y=True), c,
               inputs={"Y": [d]}, trans_x=False, trans_y=True),
            op("matmul_v2", lambda v: paddle.matmul(v, d, transpose_x=True), c,
               inputs={"Y": [d]}, trans_x=True, trans_y=False), paddle.stack([c, d], 1),
            paddle.concat([self.token.expand([x.shape[0], -1, -1]), t], 1),
            paddle.tile(c, [1, 2, 1]), t.mean(1), t.mean([1, 2], keepdim=True), t.mean() + t,
            paddle.gather(t, self.order, axis=1), *paddle.unbind(t, 2),
            t.astype("float64").astype("float32"), paddle.full([2], 3.0) + t[:, :2, 0],
            paddle.gather_nd(self.scale, self.order.unsqueeze(-1)) + t, op("silu", F.silu, t),
            F.dropout(t, 0.5, training=False), paddle.pow(t * 0 + 2, self.scale),
            op("erf", paddle.erf, t),
            t.reshape([x.shape[0], 4, 12]), t.reshape([0, -1]), paddle.assign(t),
            paddle.index_select(t, self.order, axis=2),
        ]
        token = self.token
        found += [
            op("gelu", F.gelu, t, approximate=False), op("swish", F.swish, t, beta=1.0),
            op("gelu", lambda v: F.gelu(v, approximate=True), t, approximate=True),
            op("roll", lambda v: paddle.roll(v, [1, -1], [2, 3]), y, shifts=[1, -1], axis=[2, 3]),
            op("roll", lambda v: paddle.roll(v, 4, 2), y, shifts=[4], axis=[2]),
            op("expand_as_v2", lambda v: v.expand_as(t[:, :1]), token, inputs={"Y": [t[:, :1]]},
               target_shape=[-1, 1, 4]),
        ]
        return paddle.concat([part.flatten(1) for part in found], 1)
model = Net()
"""
CHECK = """
x = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype("float32")
np.savez(sys.argv[1] + ".run.npz", x=x, y=model(paddle.to_tensor(x)).numpy())
"""


@pytest.fixture(scope="module", params=[True, False], ids=["PIR", "ProgramDesc"])
def net(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with every operation, as Paddle saved it."""
    folder = tmp_path_factory.mktemp("net")
    return save(folder, pir=request.param, build=NET, shape="[None, 3, 8, 8]", after=CHECK)


def test_every_operation_computes_the_same(net: Path, tmp_path: Path) -> None:
    """ONNX Runtime gives the outputs of Paddle, whatever the batch."""
    written, notes = translate.write(InputFile(net), codecs.read(str(net)), tmp_path)
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    with np.load(net.with_suffix(".run.npz")) as run:
        (found,) = session.run(None, {session.get_inputs()[0].name: run["x"]})
        assert found.shape == run["y"].shape
        error = np.abs(found - run["y"]) / (1 + np.abs(run["y"]))
        assert error.max() < 2e-5  # measured: 2e-6
    assert notes == ()


def test_every_rule_is_in_the_network(net: Path) -> None:
    """No rule of an operation is left untried, but for other names of one that is."""
    found = program(InputFile(net))
    kinds = {operation.kind for operation in found.operations}
    if found.is_pir:
        others = {"batch_norm", "shape", "silu", "share_data_", "dropout", "elementwise_pow"}
        assert RULES.keys() - kinds <= others
    else:
        assert len(kinds & LEGACY.keys()) > 35
        assert not kinds - LEGACY.keys()


def test_a_softmax_at_the_end_is_left_out(tmp_path: Path) -> None:
    """Scores are taken before the softmax that programs for deployment end in, and it is noted."""
    layers = "nn.Flatten(), nn.Linear(12, 5), nn.Softmax()"
    build = f"from paddle import nn\nmodel = nn.Sequential({layers})"
    saved = save(tmp_path, pir=True, build=build, shape="[None, 3, 2, 2]")
    _, notes = translate.write(InputFile(saved), codecs.read(str(saved)), tmp_path)
    assert "softmax" in notes[0]


def _changed(path: Path, kind: str, **entry: object) -> None:
    body = json.loads(path.read_text())
    operations = body["program"]["regions"][0]["blocks"][0]["ops"]
    next(op for op in operations if op["#"] == kind).update(entry)
    path.write_text(json.dumps(body))


@pytest.mark.parametrize(
    ("kind", "entry", "words"),
    [
        ("1.transpose", {"#": "1.fft_r2c"}, "fft_r2c: it is not known"),
        ("1.transpose", {"A": []}, "transpose: it has no perm"),
        ("1.transpose", {"I": [{"%": 10**6}]}, "transpose is malformed"),
        ("1.transpose", {"I": [{"%": 0}]}, "an operand x is missing"),
        ("1.transpose", {"O": []}, "transpose is malformed"),
        ("1.transpose", {"regions": [{"blocks": [{"ops": []}]}]}, "branches"),
        ("1.transpose", {"I": 5}, "an entry is missing or of another kind"),
        ("1.fetch", {"I": []}, "fetch is malformed"),
    ],
)
def test_a_strange_operation_is_refused_by_name(
    kind: str, entry: dict[str, object], words: str, small: Path
) -> None:
    """What is not known, or malformed, is named in one line."""
    _changed(small, kind, **entry)
    with pytest.raises(InputError, match=words):
        translate.write(InputFile(small), codecs.read(str(small)), small.parent)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network of Paddle."""
    build = "from paddle import nn\nclass Net(nn.Layer):\n    def __init__(self):\n"
    build += "        super().__init__()\n        self.head = nn.Linear(4, 2)\n"
    build += "    def forward(self, x):\n"
    build += "        return self.head(x.flatten(2).transpose([0, 2, 1]).mean(2))\n"
    build += "model = Net()\n"
    return save(tmp_path_factory.mktemp("small"), pir=True, build=build, shape="[None, 3, 2, 2]")


@pytest.fixture
def small(saved: Path, tmp_path: Path) -> Path:
    """The same in a folder where it may be changed."""
    for path in (saved, saved.with_suffix(".pdiparams")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path / saved.name
