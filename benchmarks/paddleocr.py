"""`python -m benchmarks.paddleocr [VARIANT]...`: every pair of namings of PaddleOCR's models.

Of each variant, each naming is converted to every other, to ONNX, and from there back; the bytes
must be those of the direct way. With `--golden FOLDER` (`VARIANT.paddlex.json`, `.npz` and the
code `ocr_recipe.py` that makes their weights) the outputs of ONNX Runtime are compared with those
recorded, too; else the weights are seeded. Prints a table, one row a variant.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

import porter
from porter import codecs
from porter.commands.init import init
from porter.errors import MappingError, PorterError
from porter.planning.check import dialect_tensors
from porter.tensors.state_dict import StateDict
from porter.verification.sides.rows import in_rows_of
from porter.zoo.architectures import all_variants, find

NAMINGS = {"paddle:train": ".pdparams", "paddle:paddlex": ".pdparams", "torch:hf": ".safetensors"}
_NAMES = {
    "logits": "logits", "pred_boxes": "pred_boxes", "map": "fetch_name_0", "head": "grid",
    "probabilities": "structure_probs",
}  # fmt: skip
"""{output in a golden case: output of the graph}"""


def main() -> int:
    """Run the variants, the smallest first; return 1 where bytes or outputs differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variants", nargs="*", help="default: all of PaddleOCR's")
    parser.add_argument("--golden", help="folder of golden cases")
    given = parser.parse_args()
    variants = given.variants or [
        v.name
        for v in sorted(all_variants().values(), key=lambda v: v.parameters)
        if "paddlex" in v.dialects and not v.study
    ]
    print("| variant | ways | the same bytes | ONNX | error |\n|---|---|---|---|---|", flush=True)
    good = True
    for name in variants:
        with tempfile.TemporaryDirectory(prefix="porter-") as folder:
            row, ok = _row(name, Path(folder), given.golden)
        print(row, flush=True)
        good &= ok
    return 0 if good else 1


def _row(name: str, folder: Path, golden: str | None) -> tuple[str, bool]:
    """Return a row of the table, and whether all is as it must be."""
    start = time.perf_counter()
    files = dict(_sources(name, folder, golden))
    ways = same = 0
    for naming, source in files.items():
        for way, is_same in _ways(name, naming, source, folder):
            ways, same = ways + 1, same + is_same
            if not is_same:
                print(f"{name}: {way} differs", file=sys.stderr)
    error = _error(name, folder / "paddle-paddlex.onnx", golden)
    seconds = time.perf_counter() - start
    onnx = folder / "torch-hf.onnx"
    size = f"{onnx.stat().st_size / 1e6:.1f} MB" if onnx.is_file() else "–"
    print(f"{name}: {seconds:.0f} s", file=sys.stderr)
    return f"| `{name}` | {ways} | {same} | {size} | {error} |", ways == same


def _sources(name: str, folder: Path, golden: str | None) -> Iterator[tuple[str, Path]]:
    """Yield a file in each naming; a training checkpoint has values of its own."""
    for naming, suffix in NAMINGS.items():
        path = folder / f"{naming.replace(':', '-')}{suffix}"
        case = Path(golden or "", f"{name}.{naming.partition(':')[2]}.json")
        if golden and case.is_file() and naming != "torch:hf":
            _write(case, path)
        elif naming == "torch:hf":
            _convert(name, folder / "paddle-paddlex.pdparams", path, "paddle:paddlex", naming)
        elif naming == "paddle:train":
            _write_training(name, path)
        else:
            init(name, path, to=naming)
        yield naming, path


def _write_training(name: str, path: Path) -> None:
    """Write a random training checkpoint: of some models none follows from a folded one."""
    draw = np.random.default_rng(1)
    tensors = dialect_tensors(find(name), "train").items()
    arrays = {n: draw.random(shape).astype(dtype) for n, (dtype, shape) in tensors}
    codecs.write(StateDict.of(arrays), str(path), format="paddle")


def _write(case: Path, path: Path) -> None:
    recipe = _recipe(case.parent)
    manifest, _ = recipe.load(case.stem, case.parent)
    if "from" in manifest:
        owner, _ = recipe.load(manifest["from"], case.parent)
        raw = path.with_suffix(".owner.pdparams")
        codecs.write(StateDict.of(recipe.state_dict(owner)), str(raw), format="paddle")
        variant, _, dialect = manifest["from"].rpartition(".")
        to = f"paddle:{case.stem.rpartition('.')[2]}"
        _convert(variant, raw, path, f"paddle:{dialect}", to)
        return
    codecs.write(StateDict.of(recipe.state_dict(manifest)), str(path), format="paddle")


def _recipe(folder: Path) -> Any:
    for place in (folder, folder.parent):
        if str(place) not in sys.path:
            sys.path.insert(0, str(place))
    return importlib.import_module("ocr_recipe")


def _convert(name: str, source: Path, target: Path, from_: str, to: str) -> None:
    porter.convert(name, source, target, from_=from_, to=to, verify=False, force=True)


def _ways(name: str, naming: str, source: Path, folder: Path) -> Iterator[tuple[str, bool]]:
    """Yield each way from a file, over ONNX too, and whether its bytes are right."""
    onnx = folder / f"{naming.replace(':', '-')}.onnx"
    try:
        _convert(name, source, onnx, naming, "onnx")
    except PorterError as error:
        print(f"{name}: {naming} to onnx: {error}", file=sys.stderr)
        yield f"{naming} to onnx", False
        return
    for other, suffix in NAMINGS.items():
        direct, around = folder / f"direct{suffix}", folder / f"around{suffix}"
        try:
            _convert(name, source, direct, naming, other)
        except MappingError:
            continue  # one way: training branches are folded
        _convert(name, onnx, around, "onnx", other)
        yield f"{naming} to onnx to {other}", _is_same(direct, around)


def _is_same(one: Path, other: Path) -> bool:
    ours, theirs = codecs.read(str(one)), codecs.read(str(other))
    return list(ours) == list(theirs) and all(
        ours[n].dtype is theirs[n].dtype and np.array_equal(ours[n].read(), theirs[n].read())
        for n in ours
    )


def _error(name: str, onnx: Path, golden: str | None) -> str:
    """Return the largest error of golden outputs, relative to the largest value of each."""
    case = f"{name}.paddlex"
    if golden is None or not Path(golden, f"{case}.npz").is_file() or not onnx.is_file():
        return "–"
    recipe = _recipe(Path(golden))
    manifest, arrays = recipe.load(case, Path(golden))
    height, width = manifest["input"][2:]
    if not find(name).graph.is_free and (height, width) != find(name).sides():
        sized = onnx.with_name("sized.onnx")
        porter.convert(
            name, onnx, sized, from_="onnx", to="onnx", verify=False, image_size=(height, width)
        )
        onnx = sized
    found = _run(onnx, recipe.image(manifest))
    named = {key: found[name] for key, name in _NAMES.items() if name in found}
    for key, about in manifest["outputs"].items():
        if key in named:  # of a Loop, the steps that were recorded
            named[key] = named[key][:, : about["shape"][1]]
    if "pred_boxes" in arrays:  # rows of near scores change places
        named = in_rows_of(arrays, named)
    worst = recipe.worst(manifest, arrays, named)
    return ", ".join(f"{key} {most / largest:.0e}" for key, (most, largest) in worst.items())


def _run(path: Path, image: np.ndarray) -> Mapping[str, np.ndarray]:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    values = session.run(None, {session.get_inputs()[0].name: image.astype(np.float32)})
    return dict(zip(names, values, strict=True))


if __name__ == "__main__":
    sys.exit(main())
