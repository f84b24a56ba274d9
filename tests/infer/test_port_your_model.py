"""Every command of docs/port-your-model.md is run as it is written there."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

DOC = (Path(__file__).parents[2] / "docs" / "port-your-model.md").read_text(encoding="utf-8")
SAVE = "import torch, torch_net; torch.save(torch_net.Net().state_dict(), 'net.pth')"


def test_the_commands_of_the_page_work(tmp_path: Path) -> None:
    """From two models to a proven checkpoint and its report, with the code and table shown."""
    models = re.findall(r"`(\w+_net\.py)`[^`]*```python\n(.*?)```", DOC, re.DOTALL)
    assert [name for name, _ in models] == ["torch_net.py", "paddle_net.py"]
    for name, code in models:
        (tmp_path / name).write_text(code)
    (inputs,) = re.findall(r"```python\n(import numpy.*?)```", DOC, re.DOTALL)
    for code in (inputs, SAVE):
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    commands = re.findall(r"^\$ porter (.*)$", DOC, re.MULTILINE)
    names = ["table", "table", "convert", "verify", "verify", "verify"]
    assert [c.split()[0] for c in commands] == names
    for command in commands:
        run = subprocess.run(
            [sys.executable, "-m", "porter", *shlex.split(command)],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert run.returncode == 0, (command, run.stdout, run.stderr)
    (shown,) = re.findall(r"```toml\n(\[layers\].*?)```", DOC, re.DOTALL)
    assert shown.strip() in (tmp_path / "net.toml").read_text()
    assert "the two sides compute the same" in (tmp_path / "proof.md").read_text()
    assert json.loads((tmp_path / "verdict.json").read_text())["passed"]
