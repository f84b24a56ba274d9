"""`porter table check --prove`: every mutation of a table's rows must show in the outputs."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from porter.cli.table import command
from porter.verification.sensitivity import mutate
from porter.verification.sensitivity.prove import Known, layouts, prove, smallest
from porter.zoo.architectures import families, find

VIT = find("vit-tiny-p16-224")


def test_every_mutation_of_vit_is_caught() -> None:
    """Each row, mutated in every way that applies, moves Paddle's outputs far over the limit."""
    found = prove(VIT, "paddle", framework="paddle", each_row=1)
    assert found.holds, found.uncaught
    kinds = {trial.kind for trial in found.trials}
    assert kinds == {"lost", "swapped", "transposed", "reordered", "scaled"}
    assert found.weakest is not None
    assert found.weakest.margin > 1e4  # 2e5 measured


def test_a_mutation_without_effect_is_listed(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """A scale that is no scale is not caught: the proof does not hold, and names it."""
    monkeypatch.setattr(mutate, "SCALE", 1.0)
    found = prove(VIT, "torch", each_row=1)
    assert not found.holds
    assert {trial.kind for trial in found.uncaught} == {"scaled"}


def test_what_no_output_shows_is_caught_layer_by_layer() -> None:
    """Two heads whose mean is the output may be swapped unseen; their own outputs tell them."""
    found = prove(find("deit-tiny-distilled-224"), "torch", each_row=1)
    assert found.holds, found.uncaught
    assert {(t.tensor, t.kind) for t in found.hidden} == {
        ("head.bias", "swapped"),
        ("head_dist.bias", "swapped"),
    }


def test_the_smallest_size_keeps_attention_busy() -> None:
    """Two patches a side where positions tell the size, the trained size where windows do."""
    assert smallest(VIT) == 32
    assert smallest(find("shunted-t")) == 64
    assert smallest(find("swin-tiny-w7-224")) == 224
    assert smallest(find("vit-tiny-relu-224")) == 224  # made for one size


def test_dialects_share_what_was_run_on_the_same_bytes() -> None:
    """A second dialect of one framework runs nothing anew, one of other bytes does."""
    known: Known = {}
    first = prove(VIT, "torch", each_row=1, known=known)
    ran = {key: dict(effects) for key, effects in known.items()}
    second = prove(VIT, "paddlevit", each_row=1, known=known)
    assert known == ran
    assert {t.error for t in second.trials} == {t.error for t in first.trials}
    assert {t.row for t in second.trials} != {t.row for t in first.trials}
    steps: list[str] = []
    prove(VIT, "torch", each_row=1, seed=1, known=known, step=steps.append)
    assert len(known) == 2
    assert steps[0] == "starting"
    assert steps[1] == f"mutation 1 of {len(first.trials)}"
    assert len(steps) == 1 + -(-len(first.trials) // 32)


def test_one_variant_stands_for_a_layout() -> None:
    """Distilled and plain, linear attention and not, are layouts; depth and width are none."""
    for family, names in {
        "deit": ["deit-tiny-224", "deit-tiny-distilled-224"],
        "pvtv2": ["pvtv2-b0", "pvtv2-b2-li"],
        "vit": ["vit-tiny-p16-224", "vit-tiny-r-s16-p8-224", "vit-small-gap-p16-224",
                "vit-small-r26-s32-224", "vit-small768-p16-224"],
    }.items():  # fmt: skip
        assert [v.name for v in layouts(families()[family])] == names


def test_the_command_proves_every_dialect(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line a dialect and exit code 0; a mutation that is not caught is named, with 1."""
    good = CliRunner().invoke(command, ["check", "deit-tiny-224", "--prove", "--json"])
    assert good.exit_code == 0, good.output
    found = json.loads(good.stdout)["proofs"]
    variant = find("deit-tiny-224")
    folded = [d for d in variant.dialects if variant.table.dialect(d).folds]
    assert [p["dialect"] for p in found] == [d for d in variant.dialects if d not in folded]
    assert folded == [
        line.split()[1][:-1] for line in good.stderr.splitlines() if "one way" in line
    ]
    assert all(proof["holds"] and proof["smallest_margin"] > 1e4 for proof in found)
    monkeypatch.setattr(mutate, "SCALE", 1.0)
    bad = CliRunner().invoke(command, ["check", "deit-tiny-224", "--prove"])
    assert bad.exit_code == 1
    assert bad.stdout.count("mutations caught") == len(found)
    assert "unproven: blocks.{i}.attn.qkv: blocks.0.attn.qkv.weight is scaled by" in bad.stderr
