"""Loading tables: everything that can be wrong without a variant is refused by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from porter.errors import TableError
from porter.mapping.linking import link_dialect
from porter.mapping.reader import builtin, load
from porter.mapping.table import CANONICAL, PADDLE

GOOD = """
family = "toy"
[tensors]
"cls" = "parameter"
[layers]
"blocks.{i}.qkv" = "attention"
"blocks.{i}.norm" = "norm"
"head" = "linear"
[dialects.same]
alias = "paddle"
[dialects.other]
framework = "torch"
[dialects.other.names]
"blocks.{i}.qkv" = ["layers.{i}.q", "layers.{i}.k", "layers.{i}.v"]
"head" = "classifier"
"""


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "toy.toml"
    path.write_text(text)
    return path


def test_a_good_table_loads(tmp_path: Path) -> None:
    """Layers, dialects and aliases are there."""
    found = load(table(tmp_path, GOOD))
    assert list(found.dialects) == [CANONICAL, "paddle", "other"]
    assert found.dialect("same") is found.dialects["paddle"]
    assert len(found.dialects["other"].rows[0].dialect) == 3


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"attention"', '"atention"', "layers. 'blocks.{i}.qkv' must be a kind: linear, .*, not"),
        ('"head" = "linear"', '"head" = "linear"\n"{n:head,tail}" = "linear"', "the same name"),
        ('framework = "torch"', 'framework = "jax"', "other. framework must be one of torch, "),
        ('framework = "torch"', "", "other. needs `framework` .torch, paddle, flax. or `like`"),
        ('"layers.{i}.v"]', '"layers.{j}.v"]', "same placeholders"),
        ('"head" = "classifier"', '"heat" = "classifier"', "'heat' is not in .* add it there"),
        ('"head" = "classifier"', '"head" = 3', "other.names. 'head' must be a name.*, not 3"),
        ('"head" = "classifier"', '"head" = { join = "x" }', "'head' must be a name"),
        ('"head" = "classifier"', '"head" = { path = 3 }', "'head' path must be a name or a list"),
        ('"classifier"', '{ path = "c", leaves = { wieght = "w" } }', "parameter wieght; its"),
        ('"head" = "c', '"cls" = { path = "x", ops.weight = [] }\n"head" = "c', "a bare tensor"),
        ('alias = "paddle"', 'alias = "nowhere"', "not a dialect of this table; it has torch"),
        ('alias = "paddle"', 'alias = "paddle"\nnames = {}', "unknown keys names"),
        ('family = "toy"', 'family = "toy"\nlayout = 1', "the table has unknown keys layout"),
        ('family = "toy"', "family = 1", "the table family must be .*, not 1"),
        ('"layers.{i}.v"]', '"layers.{i}.k"]', "the same name"),
        ('"cls" = "parameter"', '"cls{i+1}" = "parameter"', "may move a number"),
        ('"cls" = "parameter"', '"cls" = "linear"', "'cls' must be parameter or constant, not"),
        ("[dialects.same]", "[dialects.torch]", "are the canonical names"),
        ("[layers]", "[layers", "not TOML"),
    ],
)
def test_faults_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    """Each fault in a table is one error that carries the file."""
    assert old in GOOD
    path = table(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(TableError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


CASES = """
[dialects.lib]
framework = "torch"
[dialects.lib.names]
"head" = "without.head"
"blocks.{i}.norm" = "layers.{i}.norm"
[[dialects.lib.cases]]
when = "cls"
[dialects.lib.cases.names]
"head" = "with.head"
"""


def test_a_case_is_for_variants_that_have_a_tensor(tmp_path: Path) -> None:
    """Its rows replace those of the dialect; the other rows are the dialect's."""
    toy = load(table(tmp_path, GOOD + CASES))
    with_cls = link_dialect(toy, "lib", ["cls", "blocks.0.norm.bias", "head.weight"], {})
    without = link_dialect(toy, "lib", ["blocks.0.norm.bias", "head.weight"], {})
    assert set(with_cls.by_dialect) == {"cls", "layers.0.norm.bias", "with.head.weight"}
    assert set(without.by_dialect) == {"layers.0.norm.bias", "without.head.weight"}


def test_the_first_case_that_applies_counts(tmp_path: Path) -> None:
    """A second case is for variants without the tensor of the first."""
    second = '[[dialects.lib.cases]]\nwhen = "head"\nnames.head = "second"\n'
    dialect = load(table(tmp_path, GOOD + CASES + second)).dialect("lib")
    rows = {name: dialect.of([name]).rows[0].dialect[0].text for name in ("cls", "head", "none")}
    assert rows == {"cls": "with.head", "head": "second", "none": "without.head"}
    both = dialect.of(["head", "cls"])
    assert both is dialect.of(["cls"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('when = "cls"\n', "", "cases #1. lacks `when`"),
        ('when = "cls"', 'when = "tail"', "when 'tail': not in"),
        ('"head" = "with.head"', '"heat" = "with.head"', "cases.. #1 'heat' is not in"),
        ('"head" = "with.head"', '"head" = "layers.0.norm"', "match the same name"),
        ("[[dialects.lib.cases]]", "[dialects.lib.cases]", "cases must be .*cases"),
        ('when = "cls"', 'when = "cls"\ncases = []', "unknown keys cases"),
    ],
)
def test_faults_of_cases_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    """A condition that is missing or on an unknown tensor, rows of unknown layers."""
    assert old in CASES
    with pytest.raises(TableError, match=message):
        load(table(tmp_path, GOOD + CASES.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[layers]\n"cls" = "parameter"\n"m" = "constant"', "move 'cls', 'm' to .tensors."),
        (
            '[dialects.hf]\nframework = "torch"\nrequires = "cls"',
            'hf. `requires` and `otherwise` are written as a case: .* `when = "cls"`',
        ),
    ],
)
def test_old_spellings_are_refused_with_the_new(tmp_path: Path, text: str, message: str) -> None:
    """A table written for 0.1.0 is an error that contains the new spelling."""
    with pytest.raises(TableError, match=message) as caught:
        load(table(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_every_table_has_paddle(tmp_path: Path) -> None:
    """Canonical names in Paddle's conventions need no section; one that is given counts."""
    plain = load(table(tmp_path, '[layers]\n"fc" = "linear"'))
    assert list(plain.dialects) == [CANONICAL, PADDLE]
    (link,) = link_dialect(plain, PADDLE, ["fc.weight"], {}).links
    assert (link.dialect, link.how) == (("fc.weight",), "transpose")
    text = '[layers]\n"fc" = "linear"\n[dialects.paddle]\nframework = "paddle"\nnames.fc = "out"'
    (link,) = link_dialect(load(table(tmp_path, text)), PADDLE, ["fc.weight"], {}).links
    assert (link.dialect, link.how) == (("out.weight",), "transpose")


def test_an_operation_that_cannot_be_applied_names_file_and_row(tmp_path: Path) -> None:
    """Operations are read when a variant's sizes are known: the error still says where it is."""
    path = table(tmp_path, GOOD.replace('"classifier"', '{ path = "c", ops = ["squash 0"] }'))
    with pytest.raises(TableError, match=r"toy.toml: \[dialects.other\] head = c: .*squash"):
        link_dialect(load(path), "other", ["head.weight"], {})


def test_unknown_dialect_lists_those_there() -> None:
    """The error names what the family has."""
    with pytest.raises(TableError, match="paddle"):
        builtin("shunted").dialect("keras")


def test_what_is_not_a_table_is_refused_at_once(tmp_path: Path) -> None:
    """Pipes, devices, large files, deep arrays and long numbers cost one line."""
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "large", "wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "deep").write_text("a = " + "[" * 5000 + "]" * 5000)
    (tmp_path / "number").write_text("a = " + "9" * 6000)
    messages = {"pipe": "a pipe", "/dev/zero": "a device", "large": "is the limit",
                "deep": "nested too deeply", "number": "not TOML",
                "gone": "no such file"}  # fmt: skip
    for name, message in messages.items():
        with pytest.raises(TableError, match=message) as caught:
            load(tmp_path / name)
        assert "\n" not in str(caught.value)
