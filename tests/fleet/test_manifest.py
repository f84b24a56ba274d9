"""Manifests are read and checked as a whole, before anything is run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from porter.errors import InputError, PorterError, UsageError
from porter.fleet.manifest import read


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files that nothing reads."""
    for name in ("a.pth", "b.pth", "c.safetensors"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def written(folder: Path, text: str, name: str = "jobs.toml") -> Path:
    """Write a manifest and return its path."""
    path = folder / name
    path.write_text(text)
    return path


BASIC = """
[defaults]
from = "torch"
to = "paddle"
verify = false
[[jobs]]
arch = "deit-tiny-224"
input = "a.pth"
output = "out/deit.pdparams"
"""


def test_job_has_the_options_of_convert(folder: Path) -> None:
    """Defaults are filled in, words of the command line become those of the library."""
    (job,) = read(written(folder, BASIC + 'num-classes = 10\ndrop = ["x", "y"]\n')).jobs
    assert job.command == "convert"
    assert job.name == "deit.pdparams"
    assert job.arguments == {
        "architecture": "deit-tiny-224", "source": str(folder / "a.pth"),
        "output": str(folder / "out/deit.pdparams"), "from_": "torch", "to": "paddle",
        "verify": False, "num_classes": 10, "drop": ["x", "y"],
    }  # fmt: skip


ONNX = """
[defaults]
opset = 17
mean = [0.5, 0.5, 0.5]
[[jobs]]
arch = "deit-tiny-224"
input = "a.pth"
output = "{kind}.onnx"
kind = ["x", "y"]
labels = "c.safetensors"
free-size = true
[[jobs]]
input = "b.pth"
output = "b.pdparams"
"""


def test_options_of_onnx_are_keys(folder: Path) -> None:
    """Defaults among them are for ONNX outputs only; a mean is not three jobs."""
    first, second, third = read(written(folder, ONNX)).jobs
    asked = {
        "opset": 17, "mean": [0.5, 0.5, 0.5], "labels": str(folder / "c.safetensors"),
        "free_size": True,
    }  # fmt: skip
    assert first.arguments["onnx"] == second.arguments["onnx"] == asked
    assert third.arguments.keys() == {"source", "output"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("opset = 99", "opset 99 is not one of 11 to 23"),
        ('optimize = "x"', "optimize must be onnxruntime, onnxscript, not 'x'"),
        ('calibrate = "photos"', "photos: no such file or folder"),
        ('to = "torch"\nopset = 17', "opset: for ONNX only, not torch"),
        ("with-softmax = 1", "with-softmax must be true or false"),
    ],
)
def test_wrong_options_of_onnx_are_refused(folder: Path, line: str, message: str) -> None:
    """Before anything runs, with the row."""
    text = f'[[jobs]]\narch = "deit-tiny-224"\ninput = "a.pth"\noutput = "a.onnx"\n{line}\n'
    if "torch" in line:
        text = text.replace("a.onnx", "c.pth")
    with pytest.raises(PorterError, match=re.escape(message)):
        read(written(folder, text))


def test_yaml_is_the_same(folder: Path) -> None:
    """A manifest may be YAML."""
    text = """
defaults: {from: torch, to: paddle, verify: false}
jobs:
  - {arch: deit-tiny-224, input: a.pth, output: out/deit.pdparams}
"""
    assert read(written(folder, text, "jobs.yaml")).jobs == read(written(folder, BASIC)).jobs


def test_lists_are_combinations(folder: Path) -> None:
    """A list makes a job of each value; a variable stands in braces in other values."""
    text = """
[[jobs]]
arch = "{variant}"
variant = ["deit-tiny-224", "deit-small-224"]
input = "a.pth"
to = ["paddle", "safetensors"]
output = "out/{variant}-{number}.npz"
number = [1, 2, 3]
"""
    text = text.replace('to = ["paddle", "safetensors"]', "seed = [5, 6]").replace(
        "{number}.npz", "{number}-x.npz"
    )
    with pytest.raises(UsageError, match="write one file"):
        read(written(folder, text))
    jobs = read(written(folder, text.replace("seed = [5, 6]", 'to = "numpy"'))).jobs
    assert [job.name for job in jobs] == [
        f"{v}-{n}-x.npz" for v in ("deit-tiny-224", "deit-small-224") for n in (1, 2, 3)
    ]
    assert {job.arguments["architecture"] for job in jobs} == {"deit-tiny-224", "deit-small-224"}


def test_pattern_is_each_file(folder: Path) -> None:
    """`input` may be a pattern; `{stem}` and `{name}` are those of the file."""
    text = '[[jobs]]\ninput = "*.pth"\noutput = "{stem}/{name}.npz"\n'
    jobs = read(written(folder, text)).jobs
    assert [job.arguments["output"] for job in jobs] == [
        str(folder / "a/a.pth.npz"), str(folder / "b/b.pth.npz")
    ]  # fmt: skip


def test_proof_has_two_sides(folder: Path) -> None:
    """With `left` and `right` a job is a call of verify."""
    text = """
[[jobs]]
arch = "deit-tiny-224"
left = "a.pth"
right = "c.safetensors"
preset = "paddleclas"
"""
    (job,) = read(written(folder, text)).jobs
    assert job.command == "verify"
    assert job.arguments["preset"] == "paddleclas"
    assert job.sources == (str(folder / "a.pth"), str(folder / "c.safetensors"))


def test_jobs_of_one_name_are_numbered(folder: Path) -> None:
    """Names are those of files in the report."""
    text = "".join(
        f'[[jobs]]\nname = "x/y"\ninput = "a.pth"\noutput = "{n}.npz"\n' for n in range(3)
    )
    assert [job.name for job in read(written(folder, text)).jobs] == ["x_y", "x_y-2", "x_y-3"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (("deit-tiny-224", "deit-tini-224"), UsageError, "deit-tini-224"),
        (('"torch"', '"torsh"'), UsageError, "torsh"),
        (("a.pth", "none.pth"), UsageError, "no such file"),
        (("a.pth", "*.bin"), UsageError, "no file fits the pattern"),
        (("verify", "verfy"), UsageError, "verfy is not an option.*did you mean verify"),
        (('"a.pth"', "[]"), UsageError, "empty list"),
        (("out/deit", "{nothing}"), UsageError, "{nothing} is not a variable"),
        (("input", "inputs"), UsageError, "needs input"),
        (("[[jobs]]", "[[job]]"), InputError, "has job"),
        (("[[jobs]]", "[jobs]"), InputError, "no \\[\\[jobs\\]\\]"),
        (("[defaults]", "[defaults"), InputError, "cannot be parsed"),
        (("out/deit.pdparams", "."), UsageError, "is a folder"),
        (("verify = false", 'verify = false\npreset = "strict"'), UsageError, "preset needs"),
    ],
)
def test_wrong_manifest_is_one_line(
    folder: Path, change: tuple[str, str], error: type[PorterError], message: str
) -> None:
    """The first job that is wrong is named."""
    with pytest.raises(error, match=message) as caught:
        read(written(folder, BASIC.replace(*change)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ('arch = "nix"', "unknown architecture 'nix'"),
        ("arch = 3", "arch must be a text, not 3"),
        ('to = "tensorflow"', "unknown format"),
        ('to = "onnx"', "its suffix means paddle, --to means onnx"),
        ('num-classes = "lots"', "num-classes must be a whole number, not 'lots'"),
        ("num-classes = true", "num-classes must be a whole number, not True"),
        ('verify = "no"', "verify must be true or false, not 'no'"),
        ('dtype = "fp17"', "dtype must be fp32, fp16, bf16"),
        ("drop = 5", "drop must be a list"),
        ('fill = { a = "x" }', "fill must be a table"),
        ('preset = "nix"', "preset 'nix' is not one of"),
        ('judge = "x"', "'x' is not a limit"),
        ('max-shard-size = "huge"', "'huge' is not a size"),
        ("image-size = -3", "-3"),
        ('digest = "md5"', "digest must be xxh3"),
        ("input = 5", "input must be a path"),
        ('input = "ftp://host/a.pth"', "porter reads https, http, hf"),
        ('input = "https://me:secret@host/a.pth"', "no user or password"),
        ('output = "https://host/a.pdparams?key=secret"', "is read, and not written"),
        ('output = "a.xyz"', "--to is needed"),
    ],
)
def test_a_wrong_value_is_named_with_its_row(folder: Path, keys: str, message: str) -> None:
    """Before anything is run, and without what an address keeps secret."""
    key = keys.partition(" = ")[0]
    rows = {"arch": '"deit-tiny-224"', "input": '"a.pth"', "output": '"b.pdparams"'}
    kept = "\n".join(f"{name} = {value}" for name, value in rows.items() if name != key)
    good = "\n".join(f"{name} = {value}" for name, value in rows.items()).replace("b.pd", "c.pd")
    text = f"[[jobs]]\n{good}\n[[jobs]]\n{kept}\n{keys}\n"
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        read(written(folder, text))
    assert "job 2: " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_options_stand_in_braces_and_numbers_stay_numbers(folder: Path) -> None:
    """The value of another key may be used; a value that is only a variable keeps its type."""
    text = """
[[jobs]]
arch = ["deit-tiny-224", "vit-tiny-p16-224"]
input = "a.pth"
to = "paddle"
num-classes = "{n}"
n = [10, 100]
output = "{arch}-{num-classes}-{to}-{n}.pdparams"
""".replace("{num-classes}-", "")
    jobs = read(written(folder, text)).jobs
    assert [job.arguments["num_classes"] for job in jobs] == [10, 100, 10, 100]
    assert jobs[1].output.endswith("deit-tiny-224-paddle-100.pdparams")


@pytest.mark.parametrize("text", ["- [", "a: !!python/object:os.system {}", "5", "a: &a [*a, *a]"])
def test_hostile_yaml_is_refused(folder: Path, text: str) -> None:
    """YAML builds no objects, and what is no table is no manifest."""
    with pytest.raises(InputError):
        read(written(folder, text, "jobs.yml"))


def test_job_may_not_read_what_another_writes(folder: Path) -> None:
    """The order of jobs is not fixed."""
    text = """
[[jobs]]
input = "a.pth"
output = "b.npz"
[[jobs]]
input = "b.npz"
output = "c.npz"
"""
    (folder / "b.npz").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"c\.npz reads what b\.npz writes"):
        read(written(folder, text))
