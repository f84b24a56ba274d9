"""Run and print `porter table check --prove`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from porter.cli import layout
from porter.cli.output import progress

if TYPE_CHECKING:
    from porter.frameworks.process import Pool
    from porter.verification.sensitivity.prove import Sensitivity
    from porter.verification.steps import Steps
    from porter.zoo.architectures import Architecture


def prove(variants: Iterable[Architecture], quiet: bool = False) -> Iterator[Sensitivity]:
    """Prove every dialect of the variants, of several the smallest of each layout.

    torch and paddle are started once and work at the same time; every dialect but Paddle's own
    is run in torch.
    """
    from porter.frameworks.process import Pool
    from porter.verification.sensitivity import prove as sensitivity
    from porter.verification.steps import Steps

    with Pool() as pool:
        for variant in sensitivity.layouts(variants):
            with progress(quiet) as move:  # ended before a proof is printed
                proofs = _of(variant, pool, Steps(move))
            yield from proofs
            for dialect in variant.dialects:
                if variant.table.dialect(dialect).folds:
                    text = f"{variant.name} {dialect}: one way, because it is folded; not mutated"
                    layout.say(text, err=True)


def _of(variant: Architecture, pool: Pool, steps: Steps) -> list[Sensitivity]:
    from porter.frameworks.parallel import together
    from porter.verification.sensitivity import prove as sensitivity

    def task(framework: str, dialects: list[str]) -> Callable[[], list[Sensitivity]]:
        known: sensitivity.Known = {}
        step = partial(steps.part, f"{variant.name} in {framework}")

        def run() -> list[Sensitivity]:
            proofs = [
                sensitivity.prove(
                    variant, dialect, framework=framework, pool=pool, known=known, step=step
                )
                for dialect in dialects
            ]
            step("")
            return proofs

        return run

    runs: dict[str, list[str]] = {}
    proven = [d for d in variant.dialects if not variant.table.dialect(d).folds]
    for dialect in proven:
        runs.setdefault(run_of(dialect), []).append(dialect)
    made = together([task(framework, dialects) for framework, dialects in runs.items()])
    found = {proof.dialect: proof for proofs in made for proof in proofs}
    return [found[dialect] for dialect in proven]


def run_of(dialect: str) -> str:
    """Return the framework that runs a dialect's proof: torch but for Paddle's own naming."""
    return "paddle" if dialect == "paddle" else "torch"


def as_dicts(found: Iterable[Sensitivity]) -> list[dict[str, Any]]:
    """Return the proofs for JSON."""
    return [
        {
            "variant": proof.variant,
            "dialect": proof.dialect,
            "image_size": proof.image_size,
            "mutations": len(proof.trials),
            "holds": proof.holds,
            "smallest_margin": proof.weakest.margin if proof.weakest is not None else None,
            "layers_only": [t.tensor for t in proof.hidden],
            "uncaught": [
                {"row": t.row, "tensor": t.tensor, "kind": t.kind, "error": t.error}
                for t in proof.uncaught
            ],
            "unprovable": dict(proof.unprovable),
        }
        for proof in found
    ]


def say(found: Iterable[Sensitivity]) -> bool:
    """Print each proof when it is finished, and its uncaught mutations; return whether all hold."""
    holds = True
    for proof in found:
        layout.say(_line(proof))
        holds = holds and proof.holds
        for trial in proof.uncaught:
            layout.say(
                f"{proof.variant} {proof.dialect}: unproven: {trial.row}:"
                f" {trial.tensor} {trial.what} moves the outputs by {trial.error:.1e} only",
                err=True,
            )
    return holds


def _line(proof: Sensitivity) -> str:
    weakest = proof.weakest
    margin = f"{weakest.margin:.0e} times over the limit" if weakest is not None else "-"
    caught = len(proof.trials) - len(proof.uncaught)
    text = f"{caught} of {len(proof.trials)} mutations caught"
    text += f", {len(proof.hidden)} layer by layer only" if proof.hidden else ""
    return f"{proof.variant:<27} {proof.dialect:<15} {text}; the weakest {margin}"
