"""What the outputs of a checkpoint do not show is proven on fuzzed weights instead."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from porter.commands.verify import verify
from porter.frameworks.process import Pool
from porter.mapping import reader
from porter.mapping import table as tables
from porter.mapping.pattern import Pattern
from porter.planning.plan import plan
from porter.planning.recognise import shapes_of
from porter.report import render
from porter.report.text import plain
from porter.tensors.state_dict import StateDict
from porter.verification.checks import BY_BYTES, ON_FUZZED, UNPROVEN
from porter.verification.verdict import Verdict
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded

CAIT = find("cait-xxs24-224")
SQUARE = "blocks.3.attn.proj.weight"
KEY_BIAS = "blocks_token_only.0.attn.k.bias"


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool() as made:
        yield made


@pytest.fixture(scope="module")
def fresh() -> StateDict:
    """CaiT as it is initialised: LayerScale at 1e-5 hides its branches."""
    state = seeded(CAIT, num_classes=10, image_size=32).arrays()
    return StateDict.of({n: np.full_like(a, 1e-5) if "gamma" in n else a for n, a in state.items()})


def port(state: StateDict) -> StateDict:
    return plan(CAIT, shapes_of(state), "torch", "paddle", image_size=32).apply(state)


def run(
    pool: Pool, left: StateDict, right: Any, dialect: str = "paddle", **options: Any
) -> Verdict:
    return verify(
        CAIT, left, right, left_dialect="torch", right_dialect=dialect, image_size=32,
        batch_sizes=(1,), pool=pool, sensitivity=True, **options,
    )  # fmt: skip


def test_a_good_port_says_what_its_outputs_do_not_show(pool: Pool, fresh: StateDict) -> None:
    """Hidden branches are proven on fuzzed weights; a bias that softmax cancels by bytes alone."""
    verdict = run(pool, fresh, port(fresh))
    assert verdict.passed, verdict.reason
    proofs = {blind.name: blind.proof for blind in verdict.blind}
    assert proofs[SQUARE] == ON_FUZZED
    assert proofs[KEY_BIAS] == BY_BYTES
    assert not {"head.weight", "cls_token"} & set(proofs)
    (check,) = verdict.fuzzed
    assert (check.case, check.precision) == ("fuzzed.seed0.batch1", "float64")
    assert "proven by outputs of fuzzed weights" in " ".join(plain(verdict).split())
    for suffix in (".md", ".html"):
        assert "fuzzed weights" in render(verdict, suffix)


def test_a_wrong_row_fails_though_nothing_of_the_checkpoint_shows_it(
    pool: Pool, fresh: StateDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two norms swapped by rows pass bytes and outputs; fuzzed weights fail and say where."""
    names = "blocks.3.norm1", "blocks.3.norm2"
    swapped = tuple(row(one, other) for one, other in (names, names[::-1]))
    verdict = run_with(pool, fresh, monkeypatch, *swapped)
    assert {b.proof for b in verdict.blind if b.name == "blocks.3.norm1.weight"} == {UNPROVEN}
    assert "blocks.3.norm{1…2}" in {finding.place for finding in verdict.findings}
    suite = ElementTree.fromstring(render(verdict, ".xml"))
    cases = [c for c in suite if c.get("classname") == "porter.fuzzed weights"]
    assert [c.find("failure") is not None for c in cases] == [True]
    found = json.loads(render(verdict, ".json"), parse_constant=pytest.fail)
    assert found["fuzzed"][0]["problem"]


def test_a_transposition_too_many_is_named(
    pool: Pool, fresh: StateDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A square weight that a row leaves untransposed is found by its layer and named."""
    module = SQUARE.removesuffix(".weight")
    verdict = run_with(pool, fresh, monkeypatch, row(module, module, weight=("transpose",)))
    (finding,) = verdict.findings
    assert finding.place == module
    assert finding.what == "matches when transposed (on fuzzed weights)"


def row(canonical: str, dialect: str, **ops: tuple[str, ...]) -> tables.Row:
    return tables.Row((Pattern(canonical),), (Pattern(dialect),), ops=ops)


def run_with(
    pool: Pool, fresh: StateDict, monkeypatch: pytest.MonkeyPatch, *rows: tables.Row
) -> Verdict:
    """Port and verify with wrong rows for Paddle: the file agrees with the table all the same."""
    good = reader.builtin("cait")
    paddle = good.dialects["paddle"]._replace(rows=rows)
    bad = good._replace(dialects={**good.dialects, "paddle": paddle})
    monkeypatch.setattr(reader, "builtin", lambda family: bad)
    verdict = run(pool, fresh, port(fresh))
    assert all(check.passed for check in verdict.checks)
    assert all(check.passed for check in verdict.tensors)
    assert verdict.failed
    assert "outputs on fuzzed weights fail" in verdict.reason
    return verdict


def test_a_wrong_file_fails_by_its_bytes(pool: Pool, fresh: StateDict) -> None:
    """An untransposed hidden weight fails before any fuzzed run, which is said to be left out."""
    right = port(fresh)
    wrong = StateDict({**right, SQUARE: fresh[SQUARE]})
    verdict = run(pool, fresh, wrong, diagnose=False)
    assert all(check.passed for check in verdict.checks)
    assert verdict.failed
    assert SQUARE in verdict.reason
    assert verdict.fuzzed == ()
    assert any("do not show" in reason for reason in verdict.skipped)


def test_one_framework_on_both_sides_proves_no_row(pool: Pool, fresh: StateDict) -> None:
    """What a table does there and back cancels: the tensors are named, and no more is claimed."""
    verdict = run(pool, fresh, fresh, "torch")
    assert verdict.passed, verdict.reason
    assert {blind.proof for blind in verdict.blind} == {BY_BYTES}
    assert verdict.fuzzed == ()
    assert any("one framework" in reason for reason in verdict.skipped)


def test_weights_that_all_show_are_not_run_again(pool: Pool) -> None:
    """On seeded weights the cancelled biases alone are blind: fuzzed runs show no more."""
    state = StateDict.of(seeded(CAIT, seed=1, num_classes=10, image_size=32).arrays())
    verdict = run(pool, state, port(state))
    assert verdict.passed, verdict.reason
    assert {b.name.rpartition(".")[2] for b in verdict.blind} == {"bias"}
    assert verdict.fuzzed == ()
