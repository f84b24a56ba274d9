"""The environment of a framework's process: its threads, and settings that libraries read once."""

from __future__ import annotations

import os

_DEFAULTS = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
}
"""Threads that wait do not spin, which on a busy machine took half of the time. With glibc, memory
of large tensors is used again, up to 4 GiB of it: taken from the system anew for each of a vision
transformer's maps, it took a third of the time."""


def environment(framework: str, threads: int | None = None) -> dict[str, str]:
    """Return a child's environment: no TF32, deterministic kernels, a share of the cores."""
    given = str(threads or share())
    variables = {
        **_DEFAULTS,
        **os.environ,
        "OMP_NUM_THREADS": given,
        "OPENBLAS_NUM_THREADS": given,
        "NVIDIA_TF32_OVERRIDE": "0",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "FLAGS_cudnn_deterministic": "1",
        "FLAGS_embedding_deterministic": "1",
        "PYTHONIOENCODING": "utf-8",
        "GLOG_minloglevel": "2",
    }
    if framework == "torch":
        # The variable, 0 or 1, would overrule torch's own switches: with it `--precision tf32`
        # would run in float32 and always pass.
        del variables["NVIDIA_TF32_OVERRIDE"]
    return variables


def share() -> int:
    """Return the threads of one side: half of the cores, or fewer if OMP_NUM_THREADS is smaller.

    The sides run at the same time: with more threads than cores, they spin while they wait for
    each other, and both take three times as long.
    """
    return _limited(max(1, cores() // 2))


def every_core() -> int:
    """Return the threads of a process that runs while no other does."""
    return _limited(cores())


def cores() -> int:
    known = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 2


def _limited(threads: int) -> int:
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(threads, int(asked)) if asked.isdecimal() and int(asked) else threads
