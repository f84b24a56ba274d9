"""Report which packages are installed, what they are for, and how to install the others."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import subprocess
import sys
from dataclasses import dataclass
from typing import NamedTuple

DISTRIBUTION = "porter-weights"
"""The name of porter on the package index."""


class Package(NamedTuple):
    """A package that porter imports, and the extra that installs it; None: porter's core."""

    module: str
    distribution: str
    purpose: str
    extra: str | None = None


PACKAGES = (
    Package("numpy", "numpy", "arrays"),
    Package("ml_dtypes", "ml_dtypes", "bfloat16 and float8"),
    Package("click", "click", "the command line"),
    Package("rich", "rich", "verdicts and progress in the terminal"),
    Package("platformdirs", "platformdirs", "the folder of the cache"),
    Package("xxhash", "xxhash", "digests"),
    Package("filelock", "filelock", "locks on outputs"),
    Package("torch", "torch", "load_model and verify in torch, making ONNX templates", "torch"),
    Package("paddle", "paddlepaddle", "load_model and verify in Paddle", "paddle"),
    Package("onnx", "onnx", "checking and quantising ONNX files", "onnx"),
    Package("onnxruntime", "onnxruntime", "verify of ONNX files, int8", "onnx"),
    Package("onnxscript", "onnxscript", "foreign ONNX files, making ONNX templates", "onnx"),
    Package("PIL", "pillow", "pictures as inputs of verify", "images"),
    Package("fsspec", "fsspec", "addresses of buckets", "remote"),
    Package("huggingface_hub", "huggingface_hub", "hf:// addresses", "remote"),
    Package("s3fs", "s3fs", "s3:// addresses", "remote"),
    Package("isal", "isal", "faster checksums", "fast"),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One package: its version if it is installed, its purpose, how to install it."""

    module: str
    version: str | None
    purpose: str
    remedy: str
    core: bool
    """Whether porter does not work without it."""


@dataclass(frozen=True, slots=True)
class Health:
    """The packages of an environment."""

    python: str
    """Version of Python."""
    machine: str
    """Operating system and processor."""
    findings: tuple[Finding, ...]
    cuda: str
    """Name of torch's CUDA device, `none`, or why it is not known."""

    @property
    def ok(self) -> bool:
        """Whether every package of the core is installed."""
        return not self.missing

    @property
    def missing(self) -> tuple[str, ...]:
        """The packages of the core that are not installed."""
        return tuple(f.module for f in self.findings if f.core and f.version is None)

    def __repr__(self) -> str:
        state = f"missing {', '.join(self.missing)}" if self.missing else "complete"
        return f"Health(Python {self.python}, core {state}, CUDA {self.cuda})"


def doctor() -> Health:
    """Report the installed packages, without importing them.

    Returns a `Health`: the versions of Python, of the packages of porter's core and of those
    that single commands need, each with its purpose and the command that installs it;
    `ok` is False if a package of the core is missing.
    """
    findings = []
    for module, distribution, purpose, extra in PACKAGES:
        wanted = f"{DISTRIBUTION}[{extra}]" if extra else distribution
        version = _version(module, distribution)
        findings.append(
            Finding(module, version, purpose, f"pip install '{wanted}'", core=extra is None)
        )
    machine = f"{platform.system()} {platform.machine()}"
    return Health(platform.python_version(), machine, tuple(findings), _cuda())


def _version(module: str, distribution: str) -> str | None:
    if importlib.util.find_spec(module) is None:
        return None
    for name in (distribution, f"{distribution}-gpu", module):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown version"


def _cuda() -> str:
    """Return the name of torch's CUDA device, found by a child process since torch is heavy."""
    if importlib.util.find_spec("torch") is None:
        return "unknown: torch is not installed"
    code = (
        "import torch;print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else 'none')"
    )
    child = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False
    )
    lines = (child.stdout if child.returncode == 0 else child.stderr).strip().splitlines()
    return lines[-1] if lines else "unknown"
