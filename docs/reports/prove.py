"""Prove every layout of every family by mutation and print the margins.

    python docs/reports/prove.py > docs/reports/prove.md

It is `porter table check --prove` for all architectures, as a table.
"""

from __future__ import annotations

import sys
import time
from collections import Counter

from porter.cli.shared.prove import prove
from porter.verification.sensitivity.prove import Sensitivity
from porter.zoo.architectures import all_variants, find
from porter.zoo.image_size import shown

HEAD = """# Mutations of every table

Made by `python docs/reports/prove.py` (`porter table check --prove`, as a table): the smallest
variant of each layout of each family, every dialect, on one picture of noise of the size given.
A margin is how many times over the limit the outputs moved; the weakest of each proof is shown.
What "layer by layer" counts is explained in [verification.md](../verification.md); the tensors are
listed below.

| variant | dialect | px | mutations | caught | of them layer by layer | weakest margin | by |
| --- | --- | --- | --- | --- | --- | --- | --- |"""


def row(proof: Sensitivity) -> str:
    """Return one line of the table."""
    weakest = proof.weakest
    assert weakest is not None
    caught = len(proof.trials) - len(proof.uncaught)
    return (
        f"| {proof.variant} | {proof.dialect} | {shown(proof.image_size)} | {len(proof.trials)}"
        f" | {caught} | {len(proof.hidden)} | {weakest.margin:.0e}"
        f" | `{weakest.tensor}` {weakest.kind} |"
    )


def hidden(proofs: list[Sensitivity]) -> list[str]:
    """Return the tensors that only their own layer shows, of each variant."""
    lines = []
    for name in dict.fromkeys(proof.variant for proof in proofs):
        found = Counter(
            (trial.tensor, trial.kind)
            for proof in proofs
            if proof.variant == name
            for trial in proof.hidden
        )
        tensors: dict[str, list[str]] = {}
        for tensor, kind in found:
            tensors.setdefault(tensor, []).append(kind)
        lines += [f"- {name}: `{t}` {', '.join(sorted(k))}" for t, k in sorted(tensors.items())]
    return lines


def main(names: list[str]) -> None:
    """Print the table; exit with 1 where a mutation was not caught."""
    print(HEAD)
    proofs: list[Sensitivity] = []
    seconds = time.monotonic()
    modelled = [variant for variant in all_variants().values() if variant.module]
    for proof in prove(map(find, names) if names else modelled):
        proofs.append(proof)
        print(row(proof), flush=True)
        for trial in proof.uncaught:
            print(f"  uncaught: {trial}", file=sys.stderr)
    print("\nSeen only in the output of their layer:\n")
    print("\n".join(hidden(proofs)))
    print(f"{time.monotonic() - seconds:.0f} s", file=sys.stderr)
    sys.exit(not all(proof.holds for proof in proofs))


if __name__ == "__main__":
    main(sys.argv[1:])
