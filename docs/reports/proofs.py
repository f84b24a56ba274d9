"""Prove one conversion of every published variant and keep the figures, which the gallery shows.

    python docs/reports/proofs.py [VARIANT…]

Each variant gets seeded weights, is converted from torch to paddle and is run on both sides, as
`porter convert VARIANT --from torch --to paddle` does. A family without a reference model has its
weights compared only. Variants over `LARGEST` parameters are left out, unless they are named or
the smallest of their family. Results are added to
`docs/reports/proofs.json`, so that a run may prove some variants only.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import porter
from porter.verification.checks import EXACT, SINGLE
from porter.zoo.architectures import Architecture, all_variants

RESULTS = Path(__file__).with_name("proofs.json")
LARGEST = 30_000_000


def proof(variant: str) -> dict[str, Any]:
    """Return the figures of one conversion; an assertion fails where it is not proven."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        done = porter.convert(variant, None, None, from_="torch", to="paddle", sync=False)
    verdict, weights = done.verdict, done.weights
    assert weights is not None
    assert weights.holds
    figures: dict[str, Any] = {"tensors": weights.compared, "bytes": weights.nbytes, "errors": {}}
    if verdict is None or not verdict.checks:
        return {"date": datetime.now(UTC).date().isoformat(), "status": "weights", **figures}
    assert verdict.passed
    worst = {p: verdict.worst(p) for p in (EXACT, SINGLE)}
    errors = {p: (c.right.error, c.limit) for p, c in worst.items() if c is not None}
    versions = {
        side.framework: side.versions[side.framework] for side in (verdict.left, verdict.right)
    }
    return {"date": verdict.date[:10], "status": "outputs", "versions": versions, **figures} | {
        "errors": {
            p: [float(f"{error:.2e}"), float(f"{limit:.2e}")]
            for p, (error, limit) in errors.items()
        }
    }


def usual() -> list[Architecture]:
    """Return the variants that are proven by default, the smallest first."""
    published = [variant for variant in all_variants().values() if not variant.study]
    smallest: dict[str, Architecture] = {}
    for variant in sorted(published, key=lambda variant: variant.parameters):
        smallest.setdefault(variant.family, variant)
    chosen = {v.name: v for v in published if v.parameters <= LARGEST}
    chosen |= {variant.name: variant for variant in smallest.values()}
    return sorted(chosen.values(), key=lambda variant: variant.parameters)


def main(names: list[str]) -> None:
    """Prove variants, the smallest first, and add each result to the file."""
    found = {} if not RESULTS.exists() else json.loads(RESULTS.read_text())
    chosen = names or [variant.name for variant in usual()]
    for name in chosen:
        found[name] = proof(name)
        print(name, found[name])
        RESULTS.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
