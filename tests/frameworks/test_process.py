"""Child processes that run one framework each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from porter.commands.doctor import doctor
from porter.errors import InputError, MissingPackage, SystemFault, UsageError
from porter.frameworks import process
from porter.frameworks.process import TIMEOUT, Limit, Worker, environment
from porter.frameworks.runner import device_for


def alive(pid: int) -> bool:
    """Whether a process runs (one that has ended and waits for its parent does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_each_side_says_what_it_is() -> None:
    """Both frameworks start at the same time and report their versions and device."""
    with Worker("torch") as torch, Worker("paddle") as paddle:
        for worker in (torch, paddle):
            worker.send("hello", device="cpu")
        for worker in (torch, paddle):
            reply = worker.receive()
            assert reply["device"] == "cpu"
            assert worker.framework in reply["versions"]


def test_an_error_of_the_user_comes_back_as_itself() -> None:
    """A worker's `PorterError` is raised in the parent with its kind and its path."""
    with Worker("torch") as worker:
        with pytest.raises(UsageError, match="unknown architecture"):
            worker.request("load", architecture="?", weights="", num_classes=1, image_size=1)
        with pytest.raises(InputError, match="cannot be read") as caught:
            worker.request("run", inputs="/nowhere", output="", precision="float32")
        assert caught.value.path == "/nowhere"


def test_a_crash_is_one_line() -> None:
    """The last line of a traceback is the message."""
    with Worker("torch") as worker, pytest.raises(SystemFault) as caught:
        worker.request("hello")
    assert "TypeError" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.posix
def test_a_killed_child_is_said_to_be_killed() -> None:
    """A child that the system kills is reported with its signal."""
    with Worker("torch") as worker:
        worker.request("hello", device="cpu")
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(SystemFault, match=r"SIGKILL \(out of memory\?\)"):
            worker.request("hello", device="cpu")


def test_leaving_ends_the_child() -> None:
    """No process is left behind, whether the block ends well or not."""
    with Worker("torch") as worker:
        worker.request("hello", device="cpu")
    assert not alive(worker.pid)
    with pytest.raises(KeyboardInterrupt), Worker("torch") as worker:
        raise KeyboardInterrupt
    assert not alive(worker.pid)


@pytest.mark.linux
def test_the_child_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """A parent that has no time to say anything takes its children along."""
    script = tmp_path / "parent.py"
    script.write_text(
        "from porter.frameworks.process import Worker\n"
        "import time\n"
        "w = Worker('torch')\n"
        "w.request('hello', device='cpu')\n"
        "print(w.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert alive(child)
        parent.kill()
    for _ in range(100):
        if not alive(child):
            break
        time.sleep(0.05)
    assert not alive(child)


@pytest.mark.posix
def test_another_interpreter_may_run_a_side(tmp_path: Path) -> None:
    """`python` names the interpreter; one without porter says what to install."""
    with Worker("torch", python=sys.executable) as worker:
        assert worker.request("hello", device="cpu")["device"] == "cpu"
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n')
    bare.chmod(0o755)
    with (
        Worker("torch", python=os.fspath(bare)) as worker,
        pytest.raises(MissingPackage, match="porter is not installed there; run"),
    ):
        worker.request("hello", device="cpu")
    with pytest.raises(SystemFault, match="cannot be started"):
        Worker("torch", python=os.fspath(tmp_path / "none"))


def test_a_framework_that_is_not_there_is_a_missing_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the framework the answer to every request is what to install."""
    hide = tmp_path / "paddle.py"
    hide.write_text("raise ModuleNotFoundError('hidden', name='paddle')\n")
    monkeypatch.setenv("PYTHONPATH", os.fspath(tmp_path))
    with Worker("paddle") as worker:
        for _ in range(2):
            with pytest.raises(MissingPackage, match="pip install paddlepaddle"):
                worker.request("hello", device="cpu")


def test_nothing_of_the_working_directory_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Modules next to a checkpoint, named as those that a child imports, never run."""
    for name in ("torch", "queue", "numpy", "porter"):
        (tmp_path / f"{name}.py").write_text(f"open({name + '.ran'!r}, 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    for framework in ("torch", "onnxruntime"):
        with Worker(framework) as worker:
            assert worker.request("hello", device="cpu")["device"] == "cpu"
    assert doctor().cuda
    assert not list(tmp_path.glob("*.ran"))


def test_torch_and_paddle_never_share_a_process() -> None:
    """A worker imports one framework only."""
    code = (
        "import sys, porter.frameworks.runner as s; s.runner({!r});"
        " print(sorted({{'torch', 'paddle'}} & set(sys.modules)))"
    )
    for framework in ("torch", "paddle"):
        command = [sys.executable, "-c", code.format(framework)]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        assert found.stdout.split() == [f"['{framework}']"]


def test_tf32_is_torch_s_own_switch_and_off_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVIDIA's variable overrules every switch: torch must not have it, Paddle has it at 0."""
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    assert "NVIDIA_TF32_OVERRIDE" not in environment("torch")
    for framework in ("paddle", "onnxruntime"):
        assert environment(framework)["NVIDIA_TF32_OVERRIDE"] == "0"
    assert environment("paddle")["FLAGS_cudnn_deterministic"] == "1"
    assert environment("torch")["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_device_is_one_that_there_is() -> None:
    """`auto` takes what is there; a device that is not there, or no word for one, is refused."""
    assert [device_for("auto", "torch", n) for n in (0, 2)] == ["cpu", "cuda"]
    assert device_for("cuda:1", "torch", 2) == "cuda:1"
    for asked, count, said in (
        ("cuda", 0, "sees no CUDA device"),
        ("cuda:2", 2, "sees 2 CUDA devices, numbered from 0"),
        ("gpu", 2, "not one of auto, cpu, cuda, cuda:N"),
        ("cuda:", 2, "not one of auto"),
    ):
        with pytest.raises(UsageError, match=said):
            device_for(asked, "torch", count)


@pytest.mark.parametrize(
    ("cores", "asked", "threads"),
    [(8, None, 4), (8, "2", 2), (8, "8", 4), (2, "2", 1), (1, None, 1), (8, "0", 4), (8, "4,2", 4)],
)
def test_two_sides_share_the_cores(
    cores: int, asked: str | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A side has half of the cores, or as few as the environment says, never more."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert environment("torch")["OMP_NUM_THREADS"] == str(threads)
    assert environment("torch", threads=3)["OMP_NUM_THREADS"] == "3"
    assert environment("torch", threads=3)["OPENBLAS_NUM_THREADS"] == "3"


def test_a_limit_ends_what_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker with a limit is killed when it is passed, and the file at fault is named."""
    with Worker("torch") as worker:
        worker.request("hello", device="cpu")
        worker.limit = Limit("model.onnx", 0.5)
        worker._process.send_signal(signal.SIGSTOP)
        with pytest.raises(InputError, match=r"model.onnx: was not computed within 0.5 seconds"):
            worker.request("hello", device="cpu")
    monkeypatch.setenv("PORTER_TIMEOUT", "7")
    assert Limit.of("m") == Limit("m", 7.0)
    assert Limit.of("m", 8.0) == Limit("m", 8.0)
    monkeypatch.delenv("PORTER_TIMEOUT")
    assert Limit.of("m").seconds == TIMEOUT
    for text in ("0", "-1", "x", "nan", "inf"):
        monkeypatch.setenv("PORTER_TIMEOUT", text)
        with pytest.raises(UsageError, match="PORTER_TIMEOUT"):
            Limit.of("m")


@pytest.mark.skipif(sys.platform != "linux", reason="only there a child's memory is limited")
def test_the_memory_of_a_child_is_limited_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later limit would be refused where it is larger: more memory is free than was before."""
    import resource

    free = iter([4 << 30, 8 << 30])
    monkeypatch.setattr(process, "_memory", lambda: next(free))
    with Worker("onnx-tools") as worker:
        worker.limit = Limit("given.onnx", 60.0)
        for _ in range(2):
            with worker._limited():
                pass
        given, _ = resource.prlimit(worker.pid, resource.RLIMIT_DATA)
        assert given == 4 << 30
