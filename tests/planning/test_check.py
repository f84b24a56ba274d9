"""The proof of a table can fail: every kind of fault in one is found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources

import pytest

from porter.mapping.reader import parse
from porter.mapping.table import CANONICAL, Table
from porter.planning.check import check, dialect_tensors, prove
from porter.zoo.architectures import Architecture, all_variants, find
from porter.zoo.canonical import canonical_tensors
from porter.zoo.skeleton import Skeleton

VIT = (resources.files("porter.mappings") / "vit.toml").read_text()


@dataclass(frozen=True)
class WithTable(Architecture):
    """A variant with another table than its own."""

    other: Table | None = None
    skeletons: Mapping[str, Skeleton] = field(default_factory=dict)

    @property
    def table(self) -> Table:
        assert self.other is not None
        return self.other

    def skeleton(self, framework: str = CANONICAL) -> Skeleton:
        return self.skeletons[framework]


def vit_with(text: str) -> WithTable:
    """Return ViT-Ti with a table that is written differently."""
    own = find("vit-tiny-p16-224")
    fields = {name: getattr(own, name) for name in own.__dataclass_fields__}
    skeletons = {name: own.skeleton(name) for name in ("torch", "paddle")}
    return WithTable(**fields, other=parse(text, "vit.toml"), skeletons=skeletons)


@pytest.mark.parametrize("variant", sorted(all_variants()))
def test_every_table_is_proven_for_every_variant(variant: str) -> None:
    """Total, unambiguous and exact, in every dialect, both ways, without a weight."""
    architecture = find(variant)
    proofs = list(check([architecture]))
    assert [p.dialect for p in proofs] == list(architecture.dialects)
    assert [p.problems for p in proofs if not p.holds] == []
    assert all(p.tensors > 20 for p in proofs)


def test_the_unchanged_table_is_proven() -> None:
    """What the next test breaks is whole before."""
    assert all(p.holds for p in check([vit_with(VIT)]))


@pytest.mark.parametrize(
    ("old", "new", "dialect"),
    [
        ('"head" = "linear"', '"head" = "norm"', "paddle"),
        ('"blocks.{i}.attn.proj" = "att', '"blocks.{i:0,1}.attn.proj" = "att', "torch"),
        (
            '"vit.layers.{i}.attention.v_proj",\n]',
            '"vit.layers.{i}.attention.v_proj",\n"vit.layers.{i}.attention.w_proj",\n'
            '"vit.layers.{i}.attention.x_proj"]',
            "hf-v5",
        ),
        (
            '"pos_embed" = "vit.embeddings.position_embeddings"',
            '"pos_embed" = { path = "vit.embeddings.position_embeddings", ops = ["squeeze 2"] }',
            "hf",
        ),
        (
            '"cls_token" = "vit.embeddings.cls_token"',
            '"cls_token" = { path = "vit.embeddings.cls_token", ops = ["transpose"] }',
            "hf",
        ),
    ],
)
def test_a_fault_in_the_table_is_found(old: str, new: str, dialect: str) -> None:
    """A wrong kind, a row too narrow, a split that does not divide, a wrong operation."""
    assert old in VIT
    broken = vit_with(VIT.replace(old, new, 1))
    assert not prove(broken, dialect).holds


def test_a_table_that_disagrees_with_the_paddle_model_is_found() -> None:
    """A linear layer called an embedding would not be transposed: the model's shape says so."""
    broken = vit_with(VIT.replace('"head" = "linear"', '"head" = "conv"', 1))
    proof = prove(broken, "paddle")
    assert any("by the table, the model has" in problem for problem in proof.problems)


def test_dialect_tensors_are_those_of_the_paddle_model() -> None:
    """What a table makes of the skeleton is the other framework's skeleton."""
    variant = find("vit-tiny-p16-224")
    assert dialect_tensors(variant, "paddle") == variant.skeleton("paddle").bind(variant.symbols())


def test_canonical_tensors_have_the_constants() -> None:
    """They are in the file of a model though nobody trains them."""
    found = canonical_tensors(find("swin-tiny-w7-224"))
    assert found["layers.0.blocks.1.attn_mask"] == ("float32", (64, 49, 49))


def test_a_proof_names_its_variant_and_dialect() -> None:
    """What `porter table check` prints is in the proof."""
    proof = prove(find("shunted-t"), "paddle")
    assert (proof.variant, proof.dialect, proof.tensors) == ("shunted-t", "paddle", 259)
    assert not replace(proof, problems=("one",)).holds
