"""What `porter table check --prove` prints."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from porter.cli.output import columns

if TYPE_CHECKING:
    from porter.architectures import Architecture
    from porter.verify.sensitivity import Sensitivity


def prove(variants: Iterable[Architecture]) -> list[Sensitivity]:
    """Prove every dialect of the variants, of several the smallest of each layout.

    torch and paddle are started once; every dialect but Paddle's own is run in torch.
    """
    from porter.runtimes.process import Pool
    from porter.verify import sensitivity

    chosen = sensitivity.layouts(variants)
    with Pool() as pool:
        found = []
        for variant in chosen:
            known: sensitivity.Known = {}
            for dialect in variant.table.dialects:
                run = run_of(dialect)
                found.append(
                    sensitivity.prove(variant, dialect, framework=run, pool=pool, known=known)
                )
        return found


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


def say(found: Iterable[Sensitivity]) -> None:
    """Print one line for each proof, and one for each mutation that was not caught."""
    rows = []
    for proof in found:
        weakest = proof.weakest
        margin = f"{weakest.margin:.0e} times over the limit" if weakest is not None else "-"
        caught = len(proof.trials) - len(proof.uncaught)
        mutations = f"{caught} of {len(proof.trials)} mutations caught"
        mutations += f", {len(proof.hidden)} layer by layer only" if proof.hidden else ""
        rows.append((proof.variant, proof.dialect, mutations, f"the weakest {margin}"))
    click.echo(columns(rows))
    for proof in found:
        for trial in proof.uncaught:
            click.echo(
                f"{proof.variant} {proof.dialect}: unproven: {trial.row}:"
                f" {trial.tensor} {trial.what} moves the outputs by {trial.error:.1e} only",
                err=True,
            )
