"""`python -m benchmarks.gallery [NAME…]`: make the tables of the gallery, and prove them.

`gallery.toml` lists the pairs. Each table is inferred from two live models, as `porter table infer`
does, and compared with the tensors of all pairs that are to use it. Tables, skeletons and the
index are written to `mappings/gallery`; a pair that is not proven is listed as differing.
timm runs without torchvision where `tests/infer/stubs` is on PYTHONPATH.
"""

from __future__ import annotations

import json
import lzma
import re
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from porter.commands.live.infer import infer
from porter.errors import PorterError
from porter.frameworks.live.search import LIMIT
from porter.frameworks.process import Pool, kept
from porter.frameworks.references import parse
from porter.infer.propose import Inferred
from porter.mapping.gallery import PLACE, skeletons
from porter.mapping.reader import load
from porter.planning.gallery import proofs

PAIRS = Path(__file__).with_suffix(".toml")
PROOF = re.compile(r"differ by (\S+) \(relative rms, (\w+),")
PACKAGES = {
    "timm": "timm", "torchvision": "torchvision", "transformers": "transformers",
    "paddle.vision": "paddlepaddle", "paddleclas": "paddleclas", "ppim": "ppim",
    "paddlenlp": "paddlenlp",
}  # fmt: skip
"""Distributions by provider."""
_LARGE = 160
"""Pixels from which one picture is enough."""
Row = dict[str, Any]


def main(chosen: list[str]) -> int:
    """Make the tables of these names, or all; return how many are neither proven nor listed."""
    pairs: dict[str, Row] = tomllib.loads(PAIRS.read_text(encoding="utf-8"))
    index = _index() if chosen else {"tables": {}, "differences": {}}
    wrong = 0
    with Pool() as pool, kept(pool), tempfile.TemporaryDirectory() as folder:
        for name in chosen or pairs:
            started = time.monotonic()
            try:
                text = _made(name, pairs[name], index, pool, Path(folder))
            except PorterError as error:
                text, wrong = f"FAILS {error}", wrong + 1
            _write(index, pairs)
            print(f"{name} {time.monotonic() - started:.0f} s: {text}", flush=True)
    return wrong


def _index() -> Row:
    path = PLACE / "gallery.json"
    found: Row = {"tables": {}, "differences": {}}
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else found


def _write(index: Row, pairs: Mapping[str, Row]) -> None:
    ordered = {
        part: {name: index[part][name] for name in pairs if name in index[part]} for part in index
    }
    for name, row in ordered["differences"].items():
        row["note"] = pairs[name].get("note", "")
    text = json.dumps(ordered, indent=1, ensure_ascii=False) + "\n"
    (PLACE / "gallery.json").write_text(text, encoding="utf-8")


def _made(name: str, row: Row, index: Row, pool: Pool, folder: Path) -> str:
    """Infer one table, add it to the index and return a line about it."""
    left, right = next(iter(row["models"].values()))
    command = f"porter table infer --left-model '{left}' --right-model '{right}'"
    inputs = _inputs(row, folder)
    if inputs is not None:
        command += f" --inputs {inputs.name}"
    found = infer(left_model=left, right_model=right, inputs=inputs, family=name)
    about = {
        "title": row["title"], "command": f"{command} -o {name}.toml",
        "versions": dict(_versions((left, right))), "date": datetime.now(UTC).date().isoformat(),
    }  # fmt: skip
    index["tables"].pop(name, None)
    index["differences"].pop(name, None)
    if not found.proven:
        story = _story(found)
        models = {"torch": left, "paddle": right}
        index["differences"][name] = {**about, "models": models, "about": story}
        for suffix in (".toml", ".json.xz"):
            (PLACE / f"{name}{suffix}").unlink(missing_ok=True)
        return f"differs: {story}"
    match = next(m for note in found.notes if (m := PROOF.search(note)))
    table = PLACE / f"{name}.toml"
    table.write_text(_without_models(found.text), encoding="utf-8")
    packed = {entry: _sides(refs, pool) for entry, refs in row["models"].items()}
    text = json.dumps(packed, separators=(",", ":")).encode()
    (PLACE / f"{name}.json.xz").write_bytes(lzma.compress(text, preset=9))
    bad = dict(_misfits(table, name))
    index["tables"][name] = {
        **about, "difference": float(match[1]), "limit": LIMIT, "precision": match[2],
        "models": {
            entry: {"torch": refs[0], "paddle": refs[1]}
            for entry, refs in row["models"].items()
        },
    }  # fmt: skip
    misfits = "".join(f"\n  {entry} DOES NOT FIT: {why}" for entry, why in bad.items())
    lines = len(found.text.splitlines())
    return f"proven, {match[1]}, {found.rows} rows, {lines} lines{misfits}"


def _inputs(row: Row, folder: Path) -> Path | None:
    """Return a file of random pictures of the size that is asked for: two, or a large one."""
    if "size" not in row:
        return None
    size = row["size"]
    path = folder / f"pictures-{size}.npz"
    shape = (2 if size < _LARGE else 1, 3, size, size)
    np.savez(path, x=np.random.default_rng(0).standard_normal(shape).astype(np.float32))
    return path


def _versions(models: tuple[str, str]) -> Iterator[tuple[str, str]]:
    known = [PACKAGES[reference.partition(":")[0]] for reference in models]
    for name in dict.fromkeys([known[0], "torch", known[1], "paddlepaddle"]):
        try:
            yield name, version(name)
        except PackageNotFoundError:
            yield name, "?"


def _story(found: Inferred) -> str:
    """Return the first reason why a pair is not proven."""
    reasons = [*found.problems, *(f"{name}: no counterpart" for name in found.unmatched),
               *found.unproven]  # fmt: skip
    return re.sub(r" after \d+ runs of the right model", "", reasons[0])


def _without_models(text: str) -> str:
    """Return a table without its [models], which the index has for each entry."""
    return (
        text.partition("\n[models]\n")[0] + text.partition("\n[models]\n")[2].partition("\n\n")[2]
    )


def _sides(references: list[str], pool: Pool) -> Row:
    return {
        dialect: _side(reference, pool)
        for dialect, reference in zip(("torch", "paddle"), references, strict=True)
    }


def _side(text: str, pool: Pool) -> Row:
    """Return the tensors of one model."""
    reference = parse(text)
    with pool.worker(reference.framework) as worker:
        worker.request("hello", device="cpu")
        about = worker.request("live_open", **reference.request)
    return {
        "tensors": about["tensors"], "aliases": about["aliases"],
        "constants": [n for n in about["tensors"] if n not in set(about["parameters"])],
    }  # fmt: skip


def _misfits(path: Path, name: str) -> Iterator[tuple[str, str]]:
    """Yield the pairs whose tensors the table does not take to each other."""
    table = load(path)
    for entry, sides in skeletons(name).items():
        problems = [p for proof in proofs(table, entry, sides) for p in proof.problems]
        if problems:
            yield entry, "; ".join(problems[:3])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
