"""Framework processes are forked from one that has imported the framework."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import porter
from porter.errors import InputError, MissingPackage, SystemFault
from porter.frameworks import exchange
from porter.frameworks.fork_server import Forked, ForkServer
from porter.frameworks.process import Limit, Pool, Worker, environment
from porter.verification.inputs import noise
from tests.frameworks.test_process import alive

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forked on Linux only")

MODEL = "pp-lcnet-x0_25-textline-ori"


@contextmanager
def served(framework: str) -> Iterator[ForkServer]:
    """Start a server with two threads a child: NumPy's OpenBLAS starts them when it is loaded."""
    server = ForkServer(framework)
    server.start(environment(framework, 2))
    try:
        yield server
    finally:
        server.close()


def ended(*pids: int) -> bool:
    """Wait until processes have ended."""
    for _ in range(200):
        if not any(map(alive, pids)):
            return True
        time.sleep(0.05)
    return False


def parent(pid: int) -> int:
    """Return the process that started another."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def is_copy(pid: int) -> bool:
    """Whether a process has the arguments of a server: none was started in it."""
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[5].isdecimal()


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_children_share_one_import(framework: str, tmp_path: Path) -> None:
    """Each child computes what a process that was started anew computes."""
    weights, inputs = tmp_path / "w.safetensors", tmp_path / "inputs.safetensors"
    porter.init(MODEL, weights, to=f"safetensors:{framework}")
    exchange.save(inputs, noise([0], [2], (80, 160)), {})

    def outputs(worker: Worker) -> bytes:
        path = tmp_path / f"{worker.pid}.safetensors"
        worker.request("hello", device="cpu")
        worker.request("load", architecture=MODEL, weights=os.fspath(weights), num_classes=2,
                       image_size=(80, 160))  # fmt: skip
        worker.request("run", inputs=os.fspath(inputs), output=os.fspath(path),
                       precision="float64")  # fmt: skip
        return path.read_bytes()

    with served(framework) as server, Pool({framework: server.channel}) as pool:
        assert server._process is not None
        with pool.worker(framework) as one, pool.worker(framework) as two:
            made = [outputs(one), outputs(two)]
            assert one.pid != two.pid
            for worker in (one, two):
                assert parent(worker.pid) == server._process.pid
                assert is_copy(worker.pid)
    assert ended(one.pid, two.pid, server._process.pid)
    with Worker(framework) as anew:
        assert made == [outputs(anew)] * 2


def test_an_end_is_reported_as_that_of_a_process_that_was_started() -> None:
    """A child that is killed, that fails, that takes too long: codes and limits are the same."""
    with served("torch") as server:
        with Worker("torch", channel=server.channel) as killed:
            killed.request("hello", device="cpu")
            os.kill(killed.pid, signal.SIGKILL)
            with pytest.raises(SystemFault, match=r"SIGKILL \(out of memory\?\)"):
                killed.request("hello", device="cpu")
        with Worker("torch", channel=server.channel) as failed:
            with pytest.raises(SystemFault, match="TypeError"):
                failed.request("hello")
            assert failed._process.wait() == 1
        with Worker("torch", channel=server.channel) as slow:
            slow.request("hello", device="cpu")
            slow.limit = Limit("model.onnx", 0.3)
            os.kill(slow.pid, signal.SIGSTOP)
            with pytest.raises(InputError, match=r"not computed within 0.3 seconds"):
                slow.request("hello", device="cpu")
        with Worker("torch", channel=server.channel) as good:
            good.request("hello", device="cpu")
        assert isinstance(good._process, Forked)
        assert good._process.returncode == 0


def test_without_a_server_processes_start_anew() -> None:
    """One that was killed, or never started, is not waited for."""
    never = ForkServer("torch")
    never._its.close()
    with Worker("torch", channel=never.channel) as worker:
        assert worker.request("hello", device="cpu")["device"] == "cpu"
        assert isinstance(worker._process, subprocess.Popen)
    never.close()
    with served("torch") as server:
        assert server._process is not None
        with Worker("torch", channel=server.channel) as waiting:
            server._process.kill()
            with pytest.raises(SystemFault, match="the torch process ended with code 1"):
                waiting.request("hello", device="cpu")
        with Worker("torch", channel=server.channel) as worker:
            assert worker.request("hello", device="cpu")["device"] == "cpu"


def test_nothing_outlives_a_parent_that_is_killed(tmp_path: Path) -> None:
    """Server and children end when those that have the channel are gone."""
    script = tmp_path / "parent.py"
    script.write_text(
        "from porter.frameworks.process import Worker, environment\n"
        "from porter.frameworks.fork_server import ForkServer\n"
        "import time\n"
        "server = ForkServer('torch')\n"
        "server.start(environment('torch', 1))\n"
        "w = Worker('torch', channel=server.channel)\n"
        "w.request('hello', device='cpu')\n"
        "print(w.pid, server._process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        pids = [int(pid) for pid in driver.stdout.readline().split()]
        assert all(map(alive, pids))
        driver.kill()
    assert ended(*pids)


@pytest.mark.parametrize("starts_thread", [False, True])
def test_an_import_that_starts_a_thread_is_repeated_in_each_child(
    starts_thread: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to a request is the same."""
    thread = "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()"
    (tmp_path / "paddle.py").write_text(
        f"import threading, time\n{thread * starts_thread}\n"
        "raise ModuleNotFoundError('hidden', name='paddle')\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.fspath(tmp_path))
    with served("paddle") as server:
        for _ in range(2):
            with Worker("paddle", channel=server.channel) as worker:
                with pytest.raises(MissingPackage, match="pip install paddlepaddle"):
                    worker.request("hello", device="cpu")
                assert is_copy(worker.pid) is not starts_thread


def test_an_import_that_fails_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By each child with its last line."""
    (tmp_path / "paddle.py").write_text("raise OSError('libbroken.so')\n")
    monkeypatch.setenv("PYTHONPATH", os.fspath(tmp_path))
    with served("paddle") as server:
        for _ in range(2):
            with (
                Worker("paddle", channel=server.channel) as worker,
                pytest.raises(
                    SystemFault, match=r"paddle process ended with OSError: libbroken\.so"
                ),
            ):
                worker.request("hello", device="cpu")
