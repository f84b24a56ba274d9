"""On a CUDA device: `pytest -m gpu`, or `make gpu`.

A GPU machine often has one framework only. What Paddle computes was recorded on a CPU (`traces/`,
by `python -m tests.gpu.recorded`) and is compared with torch here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import porter
from porter import codecs
from porter.commands.live.verify import record_model, verify_models
from porter.commands.verify import record, verify
from porter.errors import MissingPackage, UsageError
from porter.frameworks.process import Pool, Worker
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.verification import trace as traces
from porter.verification.sensitivity.prove import smallest
from porter.verification.verdict import Verdict
from porter.zoo.architectures import families, find
from porter.zoo.seeded import seeded
from tests.gpu import published
from tests.gpu.recorded import FOLDER, VARIANTS, restore

SHUNTED = find("shunted-t")
FAULT = "block4.0.attn.proj.weight"

on_gpu = pytest.mark.gpu


@pytest.fixture(scope="module")
def cuda() -> str:
    """`cuda`, or a skip that says why it is missing; `run.sh` was asked for it: a failure there."""
    lacking = pytest.fail if "PORTER_NEEDS_GPU" in os.environ else pytest.skip
    if not Path("/dev/nvidiactl").exists():
        lacking("this machine has no NVIDIA driver (/dev/nvidiactl)")
    try:
        with Worker("torch") as worker:
            worker.request("hello", device="cuda")
    except (UsageError, MissingPackage) as error:
        lacking(str(error))
    return "cuda"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Paddle computed of Shunted-T on a CPU, inputs included."""
    return restore(SHUNTED.name, tmp_path_factory.mktemp("traces"))


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool() as workers:
        yield workers


def weights(**changed: LazyTensor) -> StateDict:
    """The weights that the recorded side has."""
    state = seeded(SHUNTED, num_classes=10, image_size=64)
    return StateDict({**state, **changed})


def run(left: Path, right: StateDict, device: str, precision: str, pool: Pool) -> Verdict:
    return verify(
        SHUNTED, left, right, right_dialect="torch", image_size=64, device=device,
        precision=precision, pool=pool,
    )  # fmt: skip


def untransposed() -> LazyTensor:
    return LazyTensor.of(weights()[FAULT].read().T.copy())


@on_gpu
@pytest.mark.parametrize("precision", ["float32", "tf32", "float16", "bfloat16"])
def test_torch_on_a_gpu_agrees_with_what_paddle_gave_on_a_cpu(
    cuda: str, recorded: Path, pool: Pool, precision: str
) -> None:
    """Good weights pass in float64 and the precision, an untransposed weight fails."""
    verdict = run(recorded, weights(), cuda, precision, pool)
    assert verdict.passed, verdict.reason
    assert {check.precision for check in verdict.checks} == {"float64", precision}
    assert verdict.left.recorded
    assert verdict.right.device.startswith("cuda (")
    assert {"torch", "cuda", "cudnn"} <= set(verdict.right.versions)
    wrong = run(recorded, weights(**{FAULT: untransposed()}), cuda, precision, pool)
    assert wrong.failed
    assert not any(check.passed for check in wrong.checks if check.precision == "float64")


@on_gpu
def test_devices_are_chosen_and_counted(cuda: str) -> None:
    """`auto` takes the GPU, a number chooses one, a number too high is refused."""
    with Worker("torch") as worker:
        assert worker.request("hello", device="auto")["device"].startswith("cuda (")
        assert worker.request("hello", device="cuda:0")["device"].startswith("cuda:0 (")
        with pytest.raises(UsageError, match=r"sees \d+ CUDA devices"):
            worker.request("hello", device="cuda:99")


@on_gpu
def test_a_model_is_loaded_onto_a_gpu(cuda: str, tmp_path: Path) -> None:
    """Every tensor is there with the bits of the file."""
    porter.init("shunted-t", tmp_path / "a.pth")
    model = porter.load_model("shunted-t", tmp_path / "a.pth", device=cuda)
    wanted = seeded(SHUNTED).arrays()
    for name, value in model.state_dict().items():
        assert value.device.type == "cuda"
        assert value.cpu().numpy().tobytes() == wanted[name].tobytes(), name


@on_gpu
def test_tf32_is_on_when_asked_for_alone(cuda: str, recorded: Path, pool: Pool) -> None:
    """The errors tell: float32 lies far below TF32's unit of roundoff, TF32 near it."""
    errors = {}
    for precision in ("float32", "tf32", "float32 again"):
        verdict = run(recorded, weights(), cuda, precision.split()[0], pool)
        errors[precision] = verdict.checks[-1].right.error
        assert any("TF32 is on" in note for note in verdict.notes) is (precision == "tf32")
    assert errors["tf32"] > 1e-4 > 10 * errors["float32"]
    assert errors["float32 again"] == errors["float32"]


@on_gpu
def test_a_layer_by_layer_trace_of_the_cpu_agrees_with_the_gpu(
    cuda: str, pool: Pool, tmp_path: Path
) -> None:
    """Recorded with its layers, a CPU run agrees with the GPU in each, and a fault is placed."""
    trace = tmp_path / "cpu.safetensors"
    record(SHUNTED, weights(), trace, image_size=64, device="cpu", per_layer=True)
    options = {"image_size": 64, "device": cuda, "pool": pool}
    good = verify(SHUNTED, weights(), trace, per_layer=True, **options)
    assert good.passed, good.reason
    assert len(good.layers) > 100
    wrong = verify(SHUNTED, weights(**{FAULT: untransposed()}), trace, **options)
    assert wrong.failed
    causes = {layer.place for layer in wrong.layers if layer.role == "causes"}
    assert causes == {FAULT.removesuffix(".weight")}


NET = """
from torch import nn
class Net(nn.Sequential):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.Hardswish()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flat = nn.Flatten()
        self.head = nn.Linear(8, 5)
"""
TABLE = """
[layers]
"conv" = "conv"
"norm" = "batchnorm"
"head" = "linear"
"""


@pytest.fixture
def own(tmp_path: Path) -> dict[str, Path]:
    """A model of a user's own, its table, and its weights: good, and with rows moved by one."""
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "net.toml").write_text(TABLE)
    draw = np.random.default_rng(0)
    shapes = {"conv.weight": (8, 3, 3, 3), "conv.bias": (8,), "norm.weight": (8,),
              "norm.bias": (8,), "norm.running_mean": (8,), "norm.running_var": (8,),
              "head.weight": (5, 8), "head.bias": (5,)}  # fmt: skip
    arrays = {n: np.abs(draw.standard_normal(s, np.float32)) + 0.1 for n, s in shapes.items()}
    arrays["norm.num_batches_tracked"] = np.array(3)
    moved = arrays | {"head.weight": np.roll(arrays["head.weight"], 1, 0)}
    for name, given in (("good", arrays), ("faulty", moved)):
        state = StateDict.of(given)
        codecs.write(state, f"{tmp_path}/{name}.safetensors", format="safetensors", record=False)
    return {"folder": tmp_path, "table": tmp_path / "net.toml"}


def runs_as_recorded(own: dict[str, Path], device: str) -> Verdict:
    """Record a model on the CPU, and compare it on a device: faulty weights must fail."""
    folder, model = own["folder"], f"{own['folder'] / 'net.py'}:Net"
    trace = folder / "trace.safetensors"
    record_model(own["table"], folder / "good.safetensors", trace, model=model, device="cpu")
    good, faulty = (
        verify_models(
            own["table"], trace, folder / f"{name}.safetensors", right_model=model, device=device
        )
        for name in ("good", "faulty")
    )
    assert good.passed, good.reason
    assert faulty.failed
    assert (good.left.recorded, good.left.device) == (True, "cpu")
    return good


def test_a_model_of_a_users_own_is_recorded_and_compared(own: dict[str, Path]) -> None:
    """On one machine what another machine has computed is enough."""
    verdict = runs_as_recorded(own, "cpu")
    assert verdict.right.device == "cpu"
    exact = [check.right.error for check in verdict.checks if check.precision == "float64"]
    assert max(exact) == 0


@on_gpu
def test_a_model_of_a_users_own_runs_on_a_gpu(cuda: str, own: dict[str, Path]) -> None:
    """In float64 the GPU agrees with the CPU as CPUs do; PyTorch's own Hardswish would not."""
    verdict = runs_as_recorded(own, cuda)
    assert verdict.right.device.startswith("cuda (")
    exact = [check.right.error for check in verdict.checks if check.precision == "float64"]
    assert 0 < max(exact) < 1e-13


@on_gpu
def test_pytorchs_hardswish_of_a_gpu_is_not_one_of_float64(cuda: str) -> None:
    """Why porter computes it otherwise: this fails where PyTorch has mended it."""
    code = (
        "import torch; x = torch.linspace(-2, 2, 99, dtype=torch.float64)\n"
        "from torch.nn.functional import hardswish as f\n"
        "print(float((f(x.cuda()).cpu() - f(x)).abs().max()))"
    )
    error = float(subprocess.check_output([sys.executable, "-c", code], text=True))
    assert 1e-9 < error < 1e-7


@on_gpu
def test_gradients_and_a_step_agree_on_a_gpu(cuda: str, pool: Pool) -> None:
    """Two sides of one framework on the GPU, deterministic: gradients and a step are the same."""
    verdict = verify(
        SHUNTED, weights(), weights(), image_size=64, batch_sizes=(2,), device=cuda, grad=True,
        train_step=True, pool=pool,
    )  # fmt: skip
    assert verdict.passed, verdict.reason
    assert len(verdict.gradients) > 200


def test_what_paddle_gave_agrees_with_torch_on_the_cpu(recorded: Path, pool: Pool) -> None:
    """The recorded file is what the tests above need, wherever they run: float32 on the CPU."""
    made = traces.load(recorded)
    assert (made.report.framework, made.report.device) == ("paddle", "cpu")
    assert run(recorded, weights(), "cpu", "float32", pool).passed
    assert run(recorded, weights(**{FAULT: untransposed()}), "cpu", "float32", pool).failed


def test_every_family_has_a_small_trace_of_a_variant() -> None:
    """What the reports compare are all families; inputs are drawn again, so files are small.

    Not the detector's: its outputs are maps as large as the pictures.
    """
    assert {find(name).family for name in VARIANTS} | {"pp-ocrv5-mobile-det"} == {
        family for family, variants in families().items() if variants[0].module
    }
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert files.keys() == {f"{name}.paddle.safetensors" for name in VARIANTS}
    assert max(files.values()) < 60_000
    assert not published.lacking()


@pytest.mark.parametrize("name", VARIANTS)
def test_the_inputs_of_a_trace_can_be_drawn_again(name: str, tmp_path: Path) -> None:
    """Every trace fits its variant as it is now; nothing else notices before a GPU is there."""
    assert traces.load(restore(name, tmp_path)).image_size == smallest(find(name))


def test_inputs_that_are_drawn_otherwise_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trace is of the inputs that Paddle was given: others would be a fault of no port."""
    monkeypatch.setattr("tests.gpu.recorded.SEEDS", (5, 6, 7, 8, 9))
    with pytest.raises(ValueError, match="draws other noise"):
        restore(SHUNTED.name, tmp_path)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_halves_run_on_the_cpu_too(recorded: Path, pool: Pool, precision: str) -> None:
    """The same judgement of halves as on a GPU, by the CPU's kernels."""
    verdict = run(recorded, weights(), "cpu", precision, pool)
    assert verdict.passed, verdict.reason
    assert verdict.checks[-1].precision == precision
    assert verdict.checks[-1].right.error > 1e-3


def test_tf32_is_refused_without_a_gpu(recorded: Path, pool: Pool) -> None:
    """TF32 is a mode of CUDA devices: on a CPU it is no precision to pass in."""
    with pytest.raises(UsageError, match="mode of CUDA devices"):
        run(recorded, weights(), "cpu", "tf32", pool)
