"""Run mutated weights through a reference model: how far does each move the outputs?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from porter.frameworks import exchange
from porter.frameworks.process import Worker
from porter.planning.plan import Plan
from porter.tensors.blocks import Array
from porter.verification import tolerance
from porter.verification.compare import compare
from porter.verification.sensitivity.mutate import Mutation
from porter.verification.sides.naming import to_framework
from porter.verification.steps import Step

CLASSES = 10
_BATCH = 32
"""Mutations in one request to the worker."""

Effect = tuple[float, float, bool]
"""(error, limit, whether only its layer shows it) of one mutation."""


def run(
    worker: Worker,
    folder: Path,
    made: Sequence[Mutation],
    back: Plan,
    step: Step | None = None,
) -> dict[tuple[str, str], Effect]:
    """Run every mutation; one that no output shows is looked for in the output of its layer."""
    if step is not None:
        step("starting")
    worker.request("hello", device="cpu")
    worker.request(
        "load", architecture=back.architecture.name, num_classes=CLASSES,
        image_size=back.image_size, features=back.features,
        weights=str(folder / "weights.safetensors"),
    )  # fmt: skip
    runs = _runs(worker, folder, made, back)
    reference, own = next(runs), next(runs)
    limit = tolerance.limit_exact(_error(own, reference))
    errors: list[float] = []
    for result in runs:
        if step is not None and len(errors) % _BATCH == 0:
            step(f"mutation {len(errors) + 1} of {len(made)}")
        errors.append(_error(result, reference))
    found = {}
    for mutation, error in zip(made, errors, strict=True):
        hidden = error <= limit
        seen = _layer_error(worker, folder, mutation, back) if hidden else error
        found[mutation.name, mutation.what] = (seen, limit, hidden)
    return found


def _runs(
    worker: Worker, folder: Path, made: Sequence[Mutation], back: Plan
) -> Iterator[dict[str, Array]]:
    """Yield outputs in float64 and in float32 unmutated, then of each mutation in float64."""
    for precision in ("float64", "float32"):
        yield _outputs(worker, folder, [{}], precision)[0]
    for start in range(0, len(made), _BATCH):
        batch = [to_framework(back.target, m.tensors) for m in made[start : start + _BATCH]]
        yield from _outputs(worker, folder, batch, "float64")


def _layer_error(worker: Worker, folder: Path, made: Mutation, back: Plan) -> float:
    """Return how far a mutation moves the outputs of the modules that its tensors belong to."""
    modules = sorted({name.rpartition(".")[0] for name in made.tensors})
    batch: list[Mapping[str, Array]] = [{}, to_framework(back.target, made.tensors)]
    before, after = _outputs(worker, folder, batch, "float64", modules)
    return _error(after, before)


def _outputs(
    worker: Worker,
    folder: Path,
    batch: Sequence[Mapping[str, Array]],
    precision: str,
    watch: Sequence[str] = (),
) -> list[dict[str, Array]]:
    values = {f"{i}/{name}": a for i, tensors in enumerate(batch) for name, a in tensors.items()}
    exchange.save(folder / "values.safetensors", values, {})
    worker.request(
        "mutate", inputs=str(folder / "inputs.safetensors"),
        output=str(folder / "outputs.safetensors"), precision=precision,
        trials=[{name: f"{i}/{name}" for name in tensors} for i, tensors in enumerate(batch)],
        values=str(folder / "values.safetensors"), watch=list(watch),
    )  # fmt: skip
    found: list[dict[str, Array]] = [{} for _ in batch]
    for key, array in exchange.load(folder / "outputs.safetensors")[0].items():
        index, _, name = key.partition("/")
        found[int(index)][name] = array
    return found


def _error(found: Mapping[str, Array], reference: Mapping[str, Array]) -> float:
    """Return the largest error of the outputs, infinite where they cannot be compared."""
    figures = [compare(found.get(name), array) for name, array in reference.items()]
    return max((f.error if not f.problem else float("inf") for f in figures), default=0.0)
