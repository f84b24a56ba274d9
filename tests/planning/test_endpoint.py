"""`--from` and `--to`: every dialect can be named, and nothing else."""

from __future__ import annotations

import pytest

from porter.codecs import CODECS
from porter.codecs.detect import SUFFIXES
from porter.errors import UsageError
from porter.planning.endpoint import FORMATS, Endpoint, container_for, parse, purposes, spellings
from porter.zoo.architectures import families, find

VIT = find("vit-tiny-p16-224").table


@pytest.mark.parametrize(
    ("text", "dialect", "container"),
    [
        ("torch", "torch", "torch"),
        ("paddle", "paddle", "paddle"),
        ("torch:hf", "hf", "torch"),
        ("torch:timm", "torch", "torch"),
        ("paddle:paddlevit", "paddlevit", "paddle"),
        ("paddle:paddleclas", "paddle", "paddle"),
        ("numpy", "google", "npz"),
        ("numpy:torch", "torch", "npz"),
        ("safetensors", "torch", "safetensors"),
        ("safetensors:hf", "hf", "safetensors"),
        ("safetensors:paddle", "paddle", "safetensors"),
        ("onnx", "torch", "onnx"),
    ],
)
def test_what_can_be_said(text: str, dialect: str, container: str) -> None:
    """A framework names its own dialects, a container any; aliases lead to what they name."""
    found = parse(text, VIT)
    assert (found.dialect, found.container) == (dialect, container)


@pytest.mark.parametrize("family", sorted(families()))
def test_every_spelling_of_every_family_is_understood(family: str) -> None:
    """What `porter list` prints can be typed."""
    table = families()[family][0].table
    for spelling in spellings(table):
        assert parse(spelling.partition(" ")[0], table).dialect in table.dialects


def test_numpy_holds_canonical_names_where_there_are_no_google_ones() -> None:
    """Google's names are ViT's alone."""
    found = parse("numpy", find("shunted-t").table)
    assert (found.dialect, found.container) == ("torch", "npz")


def test_a_name_without_suffix_is_a_folder_where_transformers_names_are_asked_for() -> None:
    """`torch:hf` may be a file or a folder: the suffix decides, also where hf is an alias."""
    for table in (VIT, find("pp-lcnet-x1_0-doc-ori").table):
        assert container_for("out", parse("torch:hf", table)) == "hf"
        assert container_for("out/", parse("torch:hf", table)) == "hf"
        assert container_for("out.pth", parse("torch:hf", table)) == "torch"
        assert container_for("out.safetensors", parse("torch:hf", table)) == "safetensors"
        assert container_for("out", parse("torch", table)) == "torch"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("torh", "did you mean torch"),
        ("", "unknown format"),
        ("torch:paddle", "unknown dialect .*; it has torch:"),
        ("paddle:hf", "unknown dialect"),
        ("torch:google", "unknown dialect"),
        ("onnx:hf", "write `onnx` without a dialect"),
        ("torch:a\nb", r"a\\+nb"),
    ],
)
def test_what_cannot_be_said(text: str, message: str) -> None:
    """The refusal lists what can."""
    with pytest.raises(UsageError, match=message) as caught:
        parse(text, VIT)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "said", "container"),
    [
        ("a.pth", "torch", "torch"),
        ("a.pdparams", "paddle", "paddle"),
        ("a.PTH", "torch", "torch"),
        ("a.safetensors", "torch", "safetensors"),
        ("a.npz", "paddle", "npz"),
        ("a.weights", "torch", "torch"),
        ("a", "paddle", "paddle"),
    ],
)
def test_a_name_says_the_container(path: str, said: str, container: str) -> None:
    """safetensors and npz hold any naming; a suffix that says nothing leaves it to `--to`."""
    assert container_for(path, parse(said, VIT)) == container


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("a.pdparams", "torch"),
        ("a.pth", "paddle"),
        ("a.onnx", "torch"),
        ("a.safetensors", "onnx"),
        ("a.npy", "torch"),
        ("a.pdopt", "torch"),
    ],
)
def test_a_name_that_contradicts_is_refused(path: str, said: str) -> None:
    """A file must not be called what it is not."""
    with pytest.raises(UsageError, match="its suffix means"):
        container_for(path, parse(said, VIT))


def test_every_container_has_a_suffix_and_every_format_a_container() -> None:
    """No format is forgotten in one of the tables."""
    assert set(FORMATS.values()) == set(SUFFIXES) - {"npy"} | {"hf"}
    assert {name for name, codec in CODECS.items() if codec.writing} <= set(SUFFIXES)
    for container, suffixes in SUFFIXES.items():
        assert Endpoint("torch", container).suffix == suffixes[0]


@pytest.mark.parametrize("text", ["torch:hf", "numpy:google", "safetensors:paddle", "onnx"])
def test_an_endpoint_has_its_spelling(text: str) -> None:
    """What was parsed can be written again."""
    assert parse(text, VIT).text == text


def test_dialects_say_what_they_are_for() -> None:
    """The names that two versions of a library share are told from those of one."""
    found = purposes(find("vit-tiny-p16-224").table)
    assert found["torch:hf"].startswith("transformers 4 and 5")
    assert found["torch:hf-v5"].startswith("transformers 5 only")
    assert "paddle" not in found
