"""Every `--json` names its schema, which is in the package and which it follows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from safetensors.numpy import save_file

import porter
from porter.cli import cli
from porter.cli.output import say_json

PACKAGE = Path(porter.__file__).parent
FILES = {
    json.loads(file.read_text())["$id"]: file
    for file in [*(PACKAGE / "schemas").glob("*.json"), *PACKAGE.rglob("*.schema.json")]
}
TABLE = '[layers]\n"fc" = "linear"\n[dialects.paddle]\nframework = "paddle"\n'
RUNS = {
    "list": ["list", "list vit", "list --gallery", "list --gallery resnet"],
    "show": ["show pvtv2-b0", "show vit-tiny-p16-224 --dialect google --full"],
    "doctor": ["doctor"],
    "inspect": [
        "inspect a.pth",
        "inspect a.pdparams --tensors --check",
        "inspect a.safetensors",
        "inspect a.safetensors --like a.pdparams",
        "inspect b.pth --like a.pth",
    ],
    "repair": ["repair broken.safetensors --like a.pth -o fixed.safetensors"],
    "diff": ["diff a.pth a.pdparams", "diff a.pth b.pth", "diff a.pth half.pth"],
    "convert": [
        "convert pvtv2-b0 a.pth -o o.pdparams --from torch --to paddle",
        "convert shunted-t --from paddle --to torch --dry-run",
        "convert pvtv2-b0 a.pth -o c.pth --from torch --to torch --dtype fp16 --no-verify",
        "convert pvtv2-b0 a.pth -o o.onnx --from torch --to onnx",
    ],
    "fleet": ["fleet jobs.toml"],
    "predict": ["predict a.pth cat.png --top 2"],
    "repack": ["repack a.pth -o r.npz --dtype fp16", "repack a.pth -o r.safetensors"],
    "table check": [
        "table check pvtv2-b0",
        "table check toy.toml",
    ],
    "table infer": ["table infer a.pth a.pdparams", "table infer a.pth b.pth -o t.toml"],
    "export-templates": ["export-templates pvtv2-b0 -o templates"],
    "evaluate": ["evaluate pvtv2-b0 a.pth a.pdparams --data data"],
    "verify": [
        "verify pvtv2-b0 a.pth a.pdparams",
        "verify pvtv2-b0 a.pth --save-trace t.safetensors",
        "verify pvtv2-b0 a.pth a.pdparams --data data --no-sensitivity",
    ],
}


def with_json(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the commands that take `--json`."""
    with click.Context(group) as context:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            if isinstance(command, click.Group):
                yield from with_json(command, (*path, name))
            elif any("--json" in parameter.opts for parameter in command.params):
                yield " ".join((*path, name))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint in several formats, another one, and a table."""
    made = tmp_path_factory.mktemp("json")
    porter.init("pvtv2-b0", made / "a.pth")
    porter.init("pvtv2-b0", made / "b.pth", seed=1)
    for name in ("a.safetensors", "half.pth"):
        porter.repack(made / "a.pth", made / name, dtype="fp16" if name == "half.pth" else None)
    porter.convert("pvtv2-b0", made / "a.pth", made / "a.pdparams", from_="torch", to="paddle",
                   verify=False)  # fmt: skip
    (made / "toy.toml").write_text(TABLE)
    job = 'arch = "pvtv2-b0"\ninput = "a.pth"\nto = "paddle"\nverify = false'
    (made / "jobs.toml").write_text(
        f'[[jobs]]\n{job}\noutput = "f.pdparams"\n[[jobs]]\n{job.replace("b0", "b1")}\n'
        'output = "g.pdparams"\n'
    )
    (made / "data" / "7").mkdir(parents=True)
    Image.new("RGB", (40, 40), "red").save(made / "data" / "7" / "x.png")
    arrays = porter.open(made / "a.pth").arrays()
    views = {n: np.ascontiguousarray(a.T).T if a.ndim == 2 else a for n, a in arrays.items()}
    save_file({n: np.require(a, requirements="W") for n, a in views.items()},
              made / "broken.safetensors")  # fmt: skip
    Image.new("RGB", (9, 7), "orange").save(made / "cat.png")
    return made


def test_every_command_with_json_is_here() -> None:
    """A new command with `--json` needs a schema and a line above."""
    assert set(with_json(cli)) == set(RUNS)


@pytest.mark.parametrize("line", [line for lines in RUNS.values() for line in lines])
def test_json_follows_its_schema(folder: Path, line: str) -> None:
    """The schema that the output names is in the package, and describes every field."""
    done = subprocess.run(
        [sys.executable, "-m", "porter", *line.split(), "--json"], capture_output=True, text=True,
        check=False, cwd=folder,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    body = json.loads(done.stdout)
    jsonschema.validate(body, json.loads(FILES[body["schema"]].read_text()))


def test_the_proofs_of_mutations_follow_their_schema(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`table check --prove` takes minutes: here its proof is given."""
    from porter.cli.shared import prove
    from porter.verification.sensitivity.prove import Sensitivity, Trial

    trials = (Trial("a", "a.weight", "swap", "swapped", 2.0, 1.0), Trial("b", "b", "x", "y", 0, 1))
    proof = Sensitivity("shunted-t", "paddle", 224, trials, {"c": "unused"})
    monkeypatch.setattr(prove, "prove", lambda variants, quiet: [proof])
    done = CliRunner().invoke(cli, ["table", "check", "shunted-t", "--prove", "--json"])
    assert done.exit_code == 1, done.output
    body = json.loads(done.stdout)
    assert body["proofs"][0]["uncaught"][0]["tensor"] == "b"
    jsonschema.validate(body, json.loads(FILES[body["schema"]].read_text()))


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield every schema of an object inside a schema."""
    if isinstance(schema, dict):
        if "properties" in schema:
            yield schema
        for value in schema.values():
            yield from objects(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from objects(value)


@pytest.mark.parametrize("identifier", FILES)
def test_schemas_are_strict(identifier: str) -> None:
    """A field that a schema does not know is refused, and so is another version."""
    schema = json.loads(FILES[identifier].read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert re.fullmatch(r"porter\.[a-z]+/\d+", identifier)
    assert schema["properties"]["schema"] == {"const": identifier}
    assert "schema" in schema["required"]
    assert all(part["additionalProperties"] is False for part in objects(schema))


def test_numbers_that_json_does_not_have_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    """NaN would make the whole text unreadable."""
    say_json({"a": [float("nan"), 1.5], "b": float("inf")})
    assert json.loads(capsys.readouterr().out) == {"a": [None, 1.5], "b": None}
