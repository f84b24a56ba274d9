"""Checkpoints are recognised by names and shapes: every golden file, as what its author wrote."""

from __future__ import annotations

import time

import pytest

from porter.mapping.signature import likenesses, resembles_any
from porter.planning.check import dialect_tensors
from porter.planning.endpoint import parse
from porter.planning.plan import is_ruled_out
from porter.planning.recognise import best_dialect, recognise
from porter.planning.sizes import Shapes
from porter.zoo.architectures import all_variants, families, find
from tests.golden.cases import ALL, Case


def shapes(case: Case) -> Shapes:
    """Return the names, dtypes and shapes of a golden checkpoint, as its manifest has them."""
    manifest = case.manifest
    derived = set(manifest.get("derived", ()))
    return {n: (dtype, tuple(s)) for n, dtype, s in manifest["tensors"] if n not in derived}


def readable(case: Case) -> set[str]:
    """Return the dialects whose names a case may have."""
    table = find(case.variant).table
    dialect = parse(case.side, table).dialect
    return {dialect, table.dialect(dialect).also or dialect}


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_golden_files_are_what_they_are(case: Case) -> None:
    """Each is recognised exactly, as the variant and in the dialect that it is of."""
    variant = find(case.variant)
    matches = recognise(shapes(case))
    assert matches
    assert all(match.exact for match in matches)
    wanted = {variant.name, variant.sibling}
    dialects = {m.dialect for m in matches if m.architecture.name in wanted}
    assert readable(case) & dialects


@pytest.mark.parametrize("variant", sorted(all_variants()))
def test_every_variant_is_recognised_in_its_own_naming(variant: str) -> None:
    """No variant is left out by what makes recognition quick."""
    matches = recognise(dialect_tensors(find(variant), "torch"))
    assert variant in [match.architecture.name for match in matches if match.exact]


@pytest.mark.parametrize(("classes", "size"), [(1, 224), (21843, 384), (10, 1024)])
def test_other_classes_and_sizes_are_recognised(classes: int, size: int) -> None:
    """What a checkpoint may choose does not hide what it is."""
    variant = find("vit-tiny-p16-224")
    bound = variant.skeleton().bind(variant.symbols(classes, size))
    matches = recognise(bound)
    assert matches[0].exact
    assert variant.name in [match.architecture.name for match in matches]
    assert {match.num_classes for match in matches} == {classes}


def test_a_checkpoint_with_a_stranger_is_nearly_something() -> None:
    """One unknown tensor: not exact, and the share of names says how near."""
    found = recognise({**dialect_tensors(find("shunted-t"), "paddle"), "ema.x": ("float32", (1,))})
    assert [match.exact for match in found] == [False]
    assert found[0].architecture.family == "shunted"
    assert 0.4 < found[0].overlap < 1


@pytest.mark.parametrize("names", [[], ["a"], ["encoder.0.weight", "decoder.0.weight"]])
def test_strangers_are_not_recognised(names: list[str]) -> None:
    """Nothing is made of nothing."""
    assert recognise(dict.fromkeys(names, ("float32", (3,)))) == []


def test_a_subset_of_a_model_is_not_that_model() -> None:
    """A head alone has the names of many and is none."""
    found = recognise({"head.weight": ("float32", (10, 192)), "head.bias": ("float32", (10,))})
    assert not any(match.exact for match in found)


def test_a_variant_s_dialect_is_told_by_the_names() -> None:
    """The dialect that fits, then the one with the most names, then the preferred one."""
    variant = find("vit-tiny-p16-224")
    for dialect in variant.table.dialects:
        there = dialect_tensors(variant, dialect)
        found = best_dialect(variant, there, "torch")
        assert dialect_tensors(variant, found) == there
    half = dict(list(dialect_tensors(variant, "hf").items())[20:60])
    assert best_dialect(variant, half, "torch") == "hf"
    assert best_dialect(variant, {}, "paddle") == "paddle"


def test_recognition_is_quick() -> None:
    """A file of two hundred tensors among sixty variants takes well under a second."""
    assert len(all_variants()) >= 60
    assert len(families()) >= 8
    there = dialect_tensors(find("vit-base-p16-224"), "hf-v4")
    recognise(there)  # tables and skeletons are read once
    begun = time.process_time()
    recognise(there)
    assert time.process_time() - begun < 0.3


@pytest.mark.parametrize("family", sorted(families()))
def test_no_variant_is_ruled_out_by_its_own_tensors(family: str) -> None:
    """The quick look leaves out others only: those of another width, and of another layout."""
    for variant in families()[family]:
        for dialect in variant.dialects:
            there = dialect_tensors(variant, dialect)
            assert not is_ruled_out(variant, there, dialect), (variant.name, dialect)
            widened = {name: (dtype, (3, *shape)) for name, (dtype, shape) in there.items()}
            assert is_ruled_out(variant, widened, dialect), (variant.name, dialect)
            less = {
                name: row for name, row in there.items() if name not in [*there][: len(there) // 2]
            }
            assert is_ruled_out(variant, less, dialect), (variant.name, dialect)


def test_every_dialect_of_every_table_is_looked_for() -> None:
    """The names that recognition goes by are those of the tables, in the tables' order."""
    found = [(one.family, one.dialect) for one in likenesses([])]
    assert found == [(f, d) for f, own in families().items() for d in own[0].table.dialects]
    assert not resembles_any(["conv_stem.weight", "conv_head.weight"])


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_golden_names_are_all_known(case: Case) -> None:
    """The dialect that a golden file is in knows each of its names."""
    variant = find(case.variant)
    complete = [(one.family, one.dialect) for one in likenesses(shapes(case)) if one.complete]
    assert {(variant.family, dialect) for dialect in readable(case)} & {*complete}
