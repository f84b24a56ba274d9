"""Say what is installed, what works with it, and how to get the rest."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import subprocess
import sys
from dataclasses import dataclass

_PACKAGES = {
    "numpy": ("numpy", "core"),
    "ml_dtypes": ("ml_dtypes", "core: bfloat16 and float8"),
    "safetensors": ("safetensors", "core"),
    "xxhash": ("xxhash", "core: digests"),
    "torch": ("torch", "load_model and verify in torch, ONNX templates"),
    "paddle": ("paddlepaddle", "load_model and verify in Paddle"),
    "onnx": ("onnx", "checking ONNX files"),
    "onnxruntime": ("onnxruntime", "verify of ONNX files"),
    "onnxscript": ("onnxscript", "making ONNX templates"),
    "isal": ("isal", "faster checksums"),
}
_EXTRAS = {
    "torch": "torch", "paddle": "paddle", "onnx": "onnx", "onnxruntime": "onnx",
    "onnxscript": "onnx", "isal": "fast",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """One package: its version if it is installed, what it is for, how to get it."""

    module: str
    version: str | None
    purpose: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Health:
    """What `porter doctor` found."""

    python: str
    machine: str
    findings: tuple[Finding, ...]
    cuda: str

    @property
    def ok(self) -> bool:
        """Whether everything that the core needs is there."""
        return all(f.version for f in self.findings if f.purpose.startswith("core"))


def doctor() -> Health:
    """Return what is installed; nothing but the standard library is imported for it."""
    findings = []
    for module, (package, purpose) in _PACKAGES.items():
        extra = _EXTRAS.get(module)
        remedy = f"pip install 'porter[{extra}]'" if extra else f"pip install {package}"
        findings.append(Finding(module, _version(module, package), purpose, remedy))
    machine = f"{platform.system()} {platform.machine()}"
    return Health(platform.python_version(), machine, tuple(findings), _cuda())


def _version(module: str, package: str) -> str | None:
    if importlib.util.find_spec(module) is None:
        return None
    for name in (package, f"{package}-gpu", module):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown version"


def _cuda() -> str:
    """Return what torch says of its CUDA device; asked in a child, since torch is heavy."""
    if importlib.util.find_spec("torch") is None:
        return "unknown: torch is not installed"
    code = (
        "import torch;print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else 'none')"
    )
    found = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False
    )
    lines = (found.stdout if found.returncode == 0 else found.stderr).strip().splitlines()
    return lines[-1] if lines else "unknown"
