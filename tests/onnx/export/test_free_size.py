"""A model that takes pictures of any height and width, and one that cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

import porter
from porter import codecs
from porter.errors import UsageError
from porter.frameworks.models import build
from porter.onnx.export.template import template
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded

NAME = "pp-lcnet-x1_0-doc-ori"
FREE = {"free_size": True}


def test_pictures_of_any_size_give_what_pytorch_computes(tmp_path: Path) -> None:
    """Proven at the variant's size, and run at others that are not square; it comes back."""
    variant, source, path = find(NAME), tmp_path / "a.safetensors", tmp_path / "a.onnx"
    state = seeded(variant)
    codecs.write(state, str(source), "safetensors")
    outcome = porter.convert(NAME, source, path, from_="torch", to="onnx", onnx=FREE)
    assert outcome.verdict is not None
    assert outcome.verdict.passed
    assert outcome.graph == ""
    dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", 3, "height", "width"]
    model = build(variant, "torch").eval()
    model.load_state_dict({n: torch.from_numpy(np.array(t.read())) for n, t in state.items()})
    session = ort.InferenceSession(path)
    for sides in ((256, 192), (96, 160)):
        noise = np.random.default_rng(0).standard_normal((2, 3, *sides), np.float32)
        with torch.no_grad():
            expected = model(torch.from_numpy(noise)).numpy()
        found = session.run(None, {"image": noise})[0]
        # 1.4e-5 was measured
        assert np.abs(found - expected).max() < 1e-4 * np.sqrt((expected**2).mean())
    porter.convert(NAME, path, tmp_path / "b.safetensors", from_="onnx", to="safetensors",
                   verify=False)  # fmt: skip
    back = codecs.read(str(tmp_path / "b.safetensors"))
    assert set(back) == set(state)
    for name, tensor in state.items():
        np.testing.assert_array_equal(back[name].read(), tensor.read())


def test_a_model_with_positions_is_refused(tmp_path: Path) -> None:
    """Its table of positions is of one size; the message names the models that can."""
    name, path = "deit-tiny-224", tmp_path / "a.pth"
    porter.init(name, path)
    with pytest.raises(UsageError, match=r"depends on the size of its pictures.*Shunted"):
        porter.convert(name, path, tmp_path / "a.onnx", from_="torch", to="onnx", onnx=FREE)
    assert not (tmp_path / "a.onnx").exists()


def test_a_pooling_to_a_fixed_map_is_refused() -> None:
    """Its regions are computed from the size of the picture that was traced."""
    with pytest.raises(UsageError, match="pvtv2-b2-li depends on the size of its pictures"):
        template(find("pvtv2-b2-li"), free=True)
