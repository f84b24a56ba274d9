"""Prefixes and words that training frameworks add to the names of a model's tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

WRAPPER_WORDS = frozenset({
    "module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module",
    "_fsdp_module", "_ddp_module",
})  # fmt: skip
"""Parts of names that DataParallel, compile, FSDP, activation checkpoints and Lightning add."""
STUDENT = "Student."
_FEWEST = 8
_DEEPEST = 5
_MOST = 16


def without_words(
    names: Collection[str], known: Iterable[str] = ()
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return {name without wrapper words: name}, and the words that were removed.

    Words that `known` names have as a part stay, and all do where two names would become one.
    """
    words = WRAPPER_WORDS - {part for name in known for part in name.split(".")}
    removed = {part for name in names for part in name.split(".") if part in words}
    if not removed:
        return {name: name for name in names}, ()
    renamed = {".".join(p for p in name.split(".") if p not in words): name for name in names}
    if len(renamed) != len(names):
        return {name: name for name in names}, ()
    return renamed, tuple(sorted(removed))


def student_of(prefixes: Iterable[str]) -> str:
    """Return the prefix of the student in a checkpoint of PaddleOCR's or PaddleClas's distillation.

    Such a file has `Student.`, and `Teacher.` or `Student2.` or both; the student is what they
    publish. Empty for all other prefixes: of DINO's models, for one, the teacher is used.
    """
    found = set(prefixes)
    are_distilled = all(prefix.startswith(("Student", "Teacher")) for prefix in found)
    return STUDENT if STUDENT in found and are_distilled else ""


def likely_prefixes(names: Iterable[str]) -> list[str]:
    """Return the prefixes that many names share, those of most names first, at most 16."""
    counts: Counter[str] = Counter()
    for name in names:
        at = -1
        for _ in range(_DEEPEST):
            at = min((p for p in (name.find(".", at + 1), name.find("/", at + 1)) if p >= 0),
                     default=-1)  # fmt: skip
            if at < 0:
                break
            counts[name[: at + 1]] += 1
    likely = [prefix for prefix, count in counts.items() if count >= _FEWEST]
    return sorted(likely, key=lambda prefix: (-counts[prefix], len(prefix)))[:_MOST]
