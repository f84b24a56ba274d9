"""`like`: the rows that differ replace, every other row is the other dialect's."""

from __future__ import annotations

import pytest

from porter.errors import TableError
from porter.mapping.link import Link
from porter.mapping.linking import link_dialect
from porter.mapping.reader import builtin, parse
from porter.mapping.table import Table

BASE = """
[tensors]
"pos" = "parameter"
"mask" = "parameter"
[layers]
"b.{i}.{n:norm1,norm2}" = "norm"
"b.{i}.{n:q,kv}" = "linear"
"head" = "linear"
[dialects.lib]
framework = "paddle"
about = "a library"
[dialects.lib.names]
"pos" = "model.position"
"b.{i}.{n:norm1,norm2}" = "model.layers.{i}.{n}"
"head" = "classifier"
[[dialects.lib.rows]]
canonical = ["b.{i}.q", "b.{i}.kv"]
path = "model.layers.{i}.qkv"
join = "concat 0 sizes 1,2"
[dialects.lib.absent]
"mask" = "computed"
[dialects.lib.extra]
"model.step" = "a counter"
"""
NAMES = ["pos", "mask", "head.weight", *(f"b.0.{n}.weight" for n in ("norm1", "norm2", "q", "kv"))]


def read(dialect: str) -> Table:
    return parse(BASE + dialect, "t.toml")


def names(table: Table, dialect: str = "new") -> dict[str, str]:
    """Return {canonical: dialect} of the links."""
    links = link_dialect(table, dialect, NAMES, {}).links
    return {" + ".join(link.canonical): " + ".join(link.dialect) for link in links}


def test_a_dialect_that_says_nothing_else_is_the_other() -> None:
    """Rows, conventions, container, absent and extra tensors are taken over."""
    table = read('[dialects.new]\nlike = "lib"')
    linked = [link_dialect(table, dialect, NAMES, {}) for dialect in ("lib", "new")]
    assert linked[0].links == linked[1].links
    assert linked[0].gaps == linked[1].gaps
    assert table.dialect("new") == table.dialect("lib")._replace(name="new")


def test_rows_that_differ_replace() -> None:
    """A row for one of the layers of a row leaves the others."""
    table = read("""
    [dialects.new]
    like = "lib"
    names = { "b.{i}.norm2" = "model.layers.{i}.after", "head" = "head" }
    """)
    expected = names(table, "lib") | {
        "b.0.norm2.weight": "model.layers.0.after.weight",
        "head.weight": "head.weight",
    }
    assert names(table) == expected
    assert names(table)["b.0.norm1.weight"] == "model.layers.0.norm1.weight"


def test_a_wider_row_replaces_narrower_ones() -> None:
    """Every row for a layer that it covers gives way, a join with all its parts."""
    table = read("""
    [dialects.new]
    like = "lib"
    names."b.{i}.{n:norm1,norm2,q,kv}" = "x.{i}.{n}"
    """)
    assert names(table)["b.0.q.weight"] == "x.0.q.weight"
    assert names(table)["b.0.norm2.weight"] == "x.0.norm2.weight"
    assert len(table.dialect("new").rows) == 3


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ('"b.{i}.q" = "x.{i}.q"', "b.{i}.q + b.{i}.kv = model.layers.{i}.qkv"),
        ('"b.{i:0,1}.norm1" = "x.{i}.norm1"', "b.{i}.norm1 = model.layers.{i}.norm1"),
    ],
)
def test_a_part_of_a_row_cannot_be_replaced(row: str, part: str) -> None:
    """One part of a join, some of the numbers: where the rest goes would be a guess."""
    with pytest.raises(TableError) as caught:
        read(f'[dialects.new]\nlike = "lib"\nnames.{row}')
    assert f"new] replaces a part of the row {part}: write rows for all of it" in str(caught.value)


def test_what_is_absent_may_be_there_and_the_other_way_round() -> None:
    """A row for an absent tensor brings it back; an absent tensor takes its row away."""
    table = read("""
    [dialects.new]
    like = "lib"
    names.mask = "model.mask"
    absent.pos = "computed"
    """)
    found = names(table)
    assert found["mask"] == "model.mask"
    assert "pos" not in found
    assert "model.position" not in {p.text for r in table.dialect("new").rows for p in r.dialect}


def test_another_framework_keeps_the_names() -> None:
    """The same library's file for another framework: the layout is that framework's."""

    def head(dialect: str) -> Link:
        table = read('[dialects.new]\nlike = "lib"\nframework = "torch"')
        return link_dialect(table, dialect, NAMES, {}).by_canonical["head.weight"]

    assert head("lib").dialect == head("new").dialect
    assert (head("lib").how, head("new").how) == ("transpose", "")


@pytest.mark.parametrize(
    ("keys", "container"),
    [("", "npz"), ('framework = "torch"', "torch"), ('container = "safetensors"', "safetensors")],
)
def test_the_container_follows_the_framework(keys: str, container: str) -> None:
    """It is the other dialect's unless the framework or the container is given."""
    base = BASE.replace('framework = "paddle"', 'framework = "paddle"\ncontainer = "npz"', 1)
    table = parse(f'{base}[dialects.new]\nlike = "lib"\n{keys}', "t.toml")
    assert table.dialect("new").container == container


def test_a_prefix_is_replaced_in_every_name() -> None:
    """Names that do not begin so stay as they are, extra tensors are renamed too."""
    table = read('[dialects.new]\nlike = "lib"\nprefix = { "model." = "other." }')
    renamed = {key: name.replace("model.", "other.") for key, name in names(table, "lib").items()}
    assert names(table) == renamed
    assert [extra.path.text for extra in table.dialect("new").extra] == ["other.step"]


def test_cases_are_taken_over() -> None:
    """A row replaces in the dialect and in each of its cases."""
    table = read("""
    [[dialects.lib.cases]]
    when = "mask"
    names.pos = "masked.position"
    [dialects.new]
    like = "lib"
    names.head = "out"
    """)
    (case,) = table.dialect("new").cases
    for form, position in (
        (case.dialect, "masked.position"),
        (table.dialect("new"), "model.position"),
    ):
        rows = {row.canonical[0].text: row.dialect[0].text for row in form.rows}
        assert rows["pos"] == position
        assert rows["head"] == "out"


def test_a_dialect_of_another_family() -> None:
    """Rows of layers that this table lacks are left out; the digest covers the other table."""
    text = """
    [tensors]
    "cls_token" = "parameter"
    [layers]
    "blocks.{i}.attn.qkv" = "attention"
    "neck" = "linear"
    [dialects.hf]
    like = "vit:hf"
    """
    table = parse(text, "t.toml")
    linked = link_dialect(table, "hf", ["cls_token", "neck.bias", "blocks.3.attn.qkv.bias"], {})
    assert list(linked.by_dialect) == [
        "vit.embeddings.cls_token", "neck.bias",
        *(f"vit.encoder.layer.3.attention.attention.{n}.bias" for n in ("query", "key", "value")),
    ]  # fmt: skip
    rows = {row.canonical[0].text for row in table.dialect("hf").rows}
    assert rows == {"cls_token", "blocks.{i}.attn.qkv"}
    assert table.dialect("hf").about == builtin("vit").dialect("hf").about
    assert table.digest != parse(text.replace('like = "vit:hf"', 'like = "paddle"'), "t").digest
    swapped = parse(text.replace("vit:hf", "deit:paddlevit"), "t.toml").digest
    assert swapped != table.digest


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('like = "nowhere"', "new. like 'nowhere': this table has lib, new"),
        ('like = "vitt:hf"', "unknown family 'vitt'; porter has cait"),
        ('like = "../vit:hf"', "unknown family"),
        ('like = "vit:hff"', "vit has no dialect 'hff'; it has"),
        ('like = "new"', "new. is like itself: new → new"),
        ('like = "lib"\nprefix = { "vit." = "x." }', "new. prefix vit.: no name begins so"),
        ('framework = "torch"\nprefix = { "a" = "b" }', "new. prefix needs `like`"),
        ('like = "lib"\nnames.pos = "classifier"', "match the same name"),
        ('like = "lib"\n[dialects.x]\nlike = "y"\n[dialects.y]\nlike = "x"', "x → y → x"),
    ],
)
def test_faults_are_named(body: str, message: str) -> None:
    """Unknown dialects and families, circles, prefixes of nothing, names used twice."""
    with pytest.raises(TableError, match=message) as caught:
        read(f"[dialects.new]\n{body}")
    assert str(caught.value).startswith("t.toml: ")
    assert "\n" not in str(caught.value)
