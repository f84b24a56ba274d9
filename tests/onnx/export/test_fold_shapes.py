"""With a fixed batch a graph has no shape arithmetic left, and computes the same."""

from __future__ import annotations

import gzip
from importlib import resources
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import porter
from porter import codecs
from porter.onnx.export.fold_shapes import folded
from porter.onnx.graph.parse import Memory, parse
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded

ASKING = {"Shape", "Size", "Expand", "Range", "ConstantOfShape"}


def test_no_template_asks_for_a_shape_once_the_sizes_are_known() -> None:
    """With a batch of one, and a picture's sides in those of any size.

    Detectors and writers of tables and formulas choose boxes and steps by what they see.
    """
    left: set[str] = set()
    sizes = {"batch": 1, "classes": 10, "height": 224, "width": 192}
    for entry in (resources.files("porter.onnx") / "templates").iterdir():
        if entry.name.endswith(".onnx.gz"):
            graph = parse(Memory(gzip.decompress(entry.read_bytes()))).graph
            nodes = folded(graph, sizes).nodes
            if ASKING & {node.op for node in nodes}:
                left.add(find(entry.name.partition(".")[0]).family)
    assert left <= {
        "pp-doclayout-plus", "pp-doclayoutv2", "pp-doclayoutv3", "pp-formulanet", "rt-detr",
        "slanet", "slanext",
    }  # fmt: skip


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", ["vit-tiny-r-s16-p8-224", "vit-labml-cifar10"])
def test_a_fixed_batch_computes_the_same(name: str, batch: int, tmp_path: Path) -> None:
    """Equal to the export with a free batch, and sound by onnx's checker."""
    variant = find(name)
    source = tmp_path / "a.safetensors"
    codecs.write(seeded(variant), str(source), "safetensors")
    for path, options in (("free.onnx", {}), ("fixed.onnx", {"batch": batch})):
        porter.convert(name, source, tmp_path / path, from_="torch", to="onnx", verify=False,
                       onnx=options)  # fmt: skip
    fixed = onnx.load(tmp_path / "fixed.onnx")
    onnx.checker.check_model(fixed, full_check=True)
    asked = {node.op_type for node in fixed.graph.node} & ASKING
    assert asked == ({"Expand"} if batch > 1 else set())
    noise = np.random.default_rng(0).standard_normal((batch, 3, *variant.sides()), np.float32)
    free, same = (
        ort.InferenceSession(tmp_path / path).run(None, {"image": noise})[0]
        for path in ("free.onnx", "fixed.onnx")
    )
    # 1.1e-6 was measured: the runtime fuses other operations
    assert np.abs(free - same).max() < 1e-5 * np.sqrt((free**2).mean())
    porter.convert(name, tmp_path / "fixed.onnx", tmp_path / "back.safetensors", from_="onnx",
                   to="safetensors", verify=False)  # fmt: skip
    back = codecs.read(str(tmp_path / "back.safetensors"))
    for key, tensor in codecs.read(str(source)).items():
        np.testing.assert_array_equal(back[key].read(), tensor.read())
