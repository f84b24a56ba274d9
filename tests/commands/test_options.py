"""Options of the library: typed, documented, and a misspelled one is refused by name."""

from __future__ import annotations

import dataclasses
import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

import porter
from porter.cli.shared.onnx_options import NAMES
from porter.codecs import CODECS
from porter.commands import options
from porter.errors import UsageError
from porter.onnx.export.write import Options
from porter.planning.preprocessing import GIVEN
from porter.storage.digests import METHODS
from porter.storage.options import WriteOptions
from porter.tensors.casts import FLOATS
from porter.verification.options import RunOptions

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONS = [name for name in porter.__all__ if name != "__version__"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: porter.convert("vit-tiny-p16-224", from_="torch", to="paddle", snyc=False),
         "convert has no option 'snyc'; did you mean sync?"),
        (lambda: porter.convert("vit-tiny-p16-224", frm="torch", to="paddle"),
         "convert has no option 'frm'; did you mean from_?"),
        (lambda: porter.convert("a", from_="torch", to="onnx", onnx={"opsett": 20}),
         "onnx has no option 'opsett'; did you mean opset?"),
        (lambda: porter.repack("a.pth", "b.pth", digset="sha256"),
         "repack has no option 'digset'; did you mean digest?"),
        (lambda: porter.init("shunted-t", "a.pth", num_clases=10),
         "init has no option 'num_clases'; did you mean num_classes?"),
        (lambda: porter.verify("shunted-t", "a.pth", "b.pth", precison="tf32"),
         "verify has no option 'precison'; did you mean precision?"),
        (lambda: porter.load_model("shunted-t", "a.pth", devise="cuda"),
         "load_model has no option 'devise'; did you mean device?"),
        (lambda: porter.load_model("shunted-t", "a.pth", zzz=1),
         "load_model has no option 'zzz'; use variant, path, framework, num_classes"),
    ],
)  # fmt: skip
def test_a_misspelled_option_is_refused(call: Callable[[], Any], message: str) -> None:
    """One line names the nearest option, before anything is read or written."""
    with pytest.raises(UsageError) as caught:
        call()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


SNIPPET = """
import porter
porter.convert("a", from_="torch", to="onnx", dtype="fp16", sync=False, onnx={"opset": 20})
porter.convert("a", from_="torch", to="paddle", dtype="fp8")  # wrong
porter.convert("a", from_="torch", to="paddle", sink=False)  # wrong
porter.convert("a", from_="torch", to="onnx", onnx={"opsett": 20})  # wrong
porter.repack("a.pth", "b.npz", to="npz", digest="sha256")
porter.repack("a.pth", "b.npz", to="nzp")  # wrong
porter.init("a", "b.pth", read_back=False, max_shard_size="5GB")
porter.init("a", "b.pth", readback=False)  # wrong
porter.load_model("a", "b.pth", framework="paddle", drop_rate=0.1)
porter.load_model("a", "b.pth", framework="jax")  # wrong
porter.load_model("a", "b.pth", drop_rat=0.1)  # wrong
porter.diff("a", "b").equal
porter.diff("a", "b").equals  # wrong
porter.inspect("a", keys="model")  # wrong
porter.verify("a", "b", "c", seed=1)  # wrong
"""


@pytest.mark.slow
def test_a_type_checker_finds_a_misspelled_option(tmp_path: Path) -> None:
    """mypy reports every line of a small script that is marked as wrong, and no other."""
    (tmp_path / "script.py").write_text(SNIPPET)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "script.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "MYPYPATH": str(ROOT)},
    )  # fmt: skip
    reported = {line.split(":")[1] for line in done.stdout.splitlines() if ": error:" in line}
    marked = {str(n) for n, line in enumerate(SNIPPET.splitlines(), 1) if "# wrong" in line}
    assert reported == marked, done.stdout


def test_the_types_are_what_the_code_takes() -> None:
    """A value that is added in one place is added in the other."""
    assert set(get_args(options.FloatType)) == set(FLOATS)
    assert set(get_args(options.Digest)) == set(METHODS)
    assert set(get_args(options.Container)) == {
        name for name, codec in CODECS.items() if codec.writing is not None
    }
    fields = {field.name for field in dataclasses.fields(Options)}
    # What `convert` gives the export is made of these: of the weights, the pictures, the dtype.
    made = {"preprocessing", "calibrate", "behaviour", *GIVEN}, {"int8", "calibration"}
    assert set(options.keys_of(options.OnnxKeywords)) - made[0] == fields - made[1]
    assert set(NAMES) == set(options.keys_of(options.OnnxKeywords))
    written = {field.name for field in dataclasses.fields(WriteOptions)}
    assert set(options.keys_of(options.WriteKeywords)) <= written
    assert "sync" in options.keys_of(options.InitKeywords)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_help_explains_every_parameter_and_the_result(name: str) -> None:
    """`help(porter.NAME)` names each parameter, each option, and what comes back."""
    function = getattr(porter, name)
    text = inspect.getdoc(function)
    assert text is not None
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            assert f"    {parameter.name}: " in text, parameter.name
    keywords = {"convert": options.ShardKeywords, "repack": options.ShardKeywords,
                "init": options.InitKeywords, "verify": RunOptions}.get(name)  # fmt: skip
    if keywords is not None:
        assert all(f"`{key}`" in text for key in options.keys_of(keywords))
    assert "\nReturns " in text


def test_the_public_names_are_listed() -> None:
    """`dir(porter)` has them before any is imported, and completion finds them."""
    code = "import porter; print(*dir(porter))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(porter.__all__) <= set(done.stdout.split())
