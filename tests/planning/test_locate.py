"""Find a variant's tensors below a prefix, between wrapper words, without a classifier."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from porter.errors import MappingError, UsageError
from porter.mapping.prefix import likely_prefixes, without_words
from porter.planning.fit import fit
from porter.planning.recognise import recognise, shapes_of
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded

DEIT = find("deit-tiny-224")
STATE = seeded(DEIT, num_classes=10)
HEADLESS = StateDict({name: t for name, t in STATE.items() if not name.startswith("head.")})


def renamed(change: Callable[[str], str], state: StateDict = STATE) -> StateDict:
    return StateDict({change(name): tensor for name, tensor in state.items()})


def within(word: str) -> Callable[[str], str]:
    """Put a word after the number of each block."""
    return lambda name: re.sub(r"^(blocks\.\d+)\.", rf"\1.{word}.", name)


WRAPPED = {
    "DDP": renamed(lambda n: f"module.{n}"),
    "Lightning": renamed(lambda n: f"model.{n}"),
    "Lightning and compile": renamed(lambda n: f"model._orig_mod.{n}"),
    "compiled blocks": renamed(within("_orig_mod")),
    "FSDP": renamed(lambda n: "_fsdp_wrapped_module." + within("_fsdp_wrapped_module")(n)),
    "activation checkpoints": renamed(within("_checkpoint_wrapped_module")),
    "averaged": renamed(lambda n: f"module.module.{n}"),
    "a backbone far down": renamed(lambda n: f"algorithm.student.backbone.{n}"),
}


@pytest.mark.parametrize("state", WRAPPED.values(), ids=WRAPPED)
def test_wrapped_state_dicts_are_found(state: StateDict) -> None:
    """The plan reads the same tensors as without the wrapper."""
    fitted = fit(DEIT, state, None, "paddle")
    assert list(fitted.state) == list(STATE)
    assert all(
        fitted.state[name] is tensor for name, tensor in zip(STATE, state.values(), strict=True)
    )
    assert fitted.notes
    assert fitted.plan.num_classes == 10


def test_names_outside_of_the_prefix_are_left_out_and_named() -> None:
    """A loss with weights next to the model does not stop a conversion."""
    state = StateDict({**WRAPPED["Lightning"], "criterion.weight": STATE["norm.bias"]})
    fitted = fit(DEIT, state, "torch", "paddle")
    assert fitted.notes == ("prefix 'model.'; left out: criterion.weight",)


def test_several_models_are_offered_by_prefix() -> None:
    """A student and a teacher: the error lists both, and either can be chosen."""
    both = StateDict({
        **renamed(lambda n: f"student.{n}"), **renamed(lambda n: f"teacher.{n}"),
    })  # fmt: skip
    with pytest.raises(UsageError, match=r"--prefix student\. or --prefix teacher\."):
        fit(DEIT, both, "torch", "paddle")
    for prefix in ("teacher", "teacher."):
        fitted = fit(DEIT, both, "torch", "paddle", prefix=prefix)
        assert fitted.state["norm.bias"] is both["teacher.norm.bias"]
    with pytest.raises(UsageError, match=r"no names begin with 'tutor\.'; there are student"):
        fit(DEIT, both, "torch", "paddle", prefix="tutor.")


def test_a_missing_classifier_is_explained() -> None:
    """The refusal names both ways out; without classes, the plan has no head."""
    with pytest.raises(MappingError, match=r"head\.weight.*--num-classes 0.*--adapt"):
        fit(DEIT, HEADLESS, "torch", "paddle")
    fitted = fit(DEIT, HEADLESS, "torch", "paddle", num_classes=0)
    assert fitted.plan.num_classes == 0
    assert list(fitted.plan.apply(fitted.state)) == list(HEADLESS)
    with_head = fit(DEIT, STATE, "torch", "paddle", num_classes=0)
    assert list(with_head.plan.apply(with_head.state)) == list(HEADLESS)
    assert set(with_head.plan.dropped) == {"head.weight", "head.bias"}


def test_a_replaced_classifier_is_explained() -> None:
    """The names that are there instead are part of the advice."""
    state = renamed(lambda n: n.replace("head.", "heads."))
    with pytest.raises(MappingError, match=r"--num-classes 0 .* add --drop for heads"):
        fit(DEIT, state, "torch", "paddle")
    fitted = fit(DEIT, state, "torch", "paddle", num_classes=0, drop=["heads"])
    assert set(fitted.plan.dropped) == {"heads.weight", "heads.bias"}


@pytest.mark.parametrize("pattern", ["decoder*", "decoder", "model.decoder*", "model.decoder.0.w"])
def test_tensors_are_dropped_by_name_pattern_and_module(pattern: str) -> None:
    """The names are those of the file, or those without the prefix."""
    state = StateDict({**WRAPPED["Lightning"], "model.decoder.0.w": STATE["norm.bias"]})
    fitted = fit(DEIT, state, "torch", "paddle", drop=[pattern])
    assert dict(fitted.plan.dropped) == {"decoder.0.w": "dropped as asked"}


def test_a_needed_tensor_is_not_dropped_in_silence() -> None:
    """It is missing then, and the message names the option."""
    with pytest.raises(MappingError, match=r"missing: head\.weight.*--drop left out head\.weight"):
        fit(DEIT, STATE, "torch", "paddle", drop=["head.weight"])
    fitted = fit(DEIT, STATE, "torch", "paddle", drop=["head.weight"], fill={"head.weight": 0.5})
    assert fitted.plan.apply(fitted.state)["head.weight"].read().max() == 0.5


def test_fill_replaces_what_the_source_has() -> None:
    """The value is written, and the source's tensor is named as replaced."""
    fitted = fit(DEIT, STATE, "torch", "paddle", fill={"head.weight": 0, "head.bias": 0})
    written = fitted.plan.apply(fitted.state)
    assert not written["head.weight"].read().any()
    assert fitted.plan.dropped["head.weight"] == "replaced by --fill"
    filled = fit(
        DEIT, HEADLESS, "torch", "torch", num_classes=7, fill={"head.weight": 0, "head.bias": 0}
    )
    assert filled.plan.apply(filled.state)["head.weight"].shape == (7, 192)


@pytest.mark.parametrize("state", [WRAPPED["Lightning"], renamed(lambda n: f"a.b.{n}", HEADLESS)])
def test_wrapped_checkpoints_are_recognised(state: StateDict) -> None:
    """Below a prefix, with a classifier or without."""
    matches = recognise(shapes_of(state))
    assert ("deit-tiny-224", True) in {(m.architecture.name, m.exact) for m in matches}
    assert {m.prefix for m in matches} <= {"model.", "a.b."}


def test_words_stay_where_names_would_become_one() -> None:
    """Nothing is removed from names that differ by a wrapper word only, or that know the word."""
    assert without_words(["a.module.b", "a.b"]) == ({"a.module.b": "a.module.b", "a.b": "a.b"}, ())
    assert without_words(["module.b"], ["x.module.y"])[1] == ()
    assert likely_prefixes(f"a.b.{i}" for i in range(9)) == ["a.", "a.b."]


def test_a_classifier_next_to_the_backbone_is_taken() -> None:
    """`backbone.` holds all but the head, which has its usual names: both are one model."""
    state = renamed(lambda name: name if name.startswith("head.") else f"backbone.{name}")
    fitted = fit(DEIT, state, None, "paddle")
    assert set(fitted.state) == set(STATE)
    assert fitted.plan.num_classes == 10
    assert "the classifier is outside of the prefix: head.weight, head.bias" in fitted.notes
    chosen = fit(DEIT, state, "torch", "paddle", prefix="backbone", num_classes=0)
    assert not any(name.startswith("head.") for name in chosen.state)


def test_a_backbone_is_not_said_to_fit_what_it_lacks_a_head_for() -> None:
    """The error names the missing classifier, and not the variant that was asked for."""
    with pytest.raises(MappingError) as error:
        fit(DEIT, HEADLESS, "torch", "paddle")
    assert "the classifier is missing" in error.value.message
    assert "it fits" not in error.value.message
