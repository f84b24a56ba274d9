"""Loading gives a model that is ready, or says in one line why not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import porter
from porter.errors import MappingError, MissingPackage, UsageError
from porter.frameworks.models import build
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded
from tests.golden.cases import WITH_LOGITS, Case

SMALL = "pvtv2-b0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of one seed in several formats and dialects."""
    path = tmp_path_factory.mktemp("load")
    porter.init(SMALL, path / "a.pth")
    for name, to in (("a.pdparams", "paddle"), ("t.pth", "torch:timm"), ("a.npz", "numpy"),
                     ("a.safetensors", "safetensors")):  # fmt: skip
        porter.convert(SMALL, path / "a.pth", path / name, from_="torch", to=to, verify=False)
    return path


def arrays(model: object, framework: str) -> dict[str, np.ndarray]:
    state = model.state_dict()  # type: ignore[attr-defined]
    return {n: v.numpy() for n, v in state.items()}


@pytest.mark.parametrize("name", ["a.pth", "a.pdparams", "t.pth", "a.npz", "a.safetensors"])
def test_any_format_and_dialect_loads_in_torch(folder: Path, name: str) -> None:
    """The dialect is recognised, every parameter has the seed's bits, the model evaluates."""
    model = porter.load_model(SMALL, folder / name)
    assert not model.training
    found, wanted = arrays(model, "torch"), seeded(find(SMALL)).arrays()
    assert set(found) == set(wanted)
    for key in wanted:
        assert found[key].tobytes() == wanted[key].tobytes(), key


@pytest.mark.parametrize("name", ["a.pth", "a.pdparams"])
def test_any_format_loads_in_paddle(folder: Path, name: str) -> None:
    """Linear layers arrive transposed, all else as it is."""
    model = porter.load_model(SMALL, folder / name, "paddle")
    assert not model.training
    found, wanted = arrays(model, "paddle"), seeded(find(SMALL)).arrays()
    np.testing.assert_array_equal(found["head.weight"], wanted["head.weight"].T)
    np.testing.assert_array_equal(found["norm4.bias"], wanted["norm4.bias"])


@pytest.mark.parametrize(
    "case",
    [c for c in WITH_LOGITS if c.variant in (SMALL, "vit-tiny-p16-224") and not c.settings],
    ids=str,
)
def test_a_loaded_model_computes_what_its_author_s_did(case: Case, tmp_path: Path) -> None:
    """The logits of the original implementation come out, where it computes as the official one."""
    import torch

    model = porter.load_model(case.variant, case.save(tmp_path)).double()
    with torch.no_grad():
        found = model(torch.from_numpy(case.image()).double())
    np.testing.assert_allclose(found.numpy(), case.logits, rtol=0, atol=1e-9)


def test_classes_come_from_the_checkpoint(tmp_path: Path) -> None:
    """Ten classes make a head of ten; a number that the file contradicts is refused."""
    porter.init(SMALL, tmp_path / "a.pth", num_classes=10)
    assert porter.load_model(SMALL, tmp_path / "a.pth").head.out_features == 10
    with pytest.raises(UsageError, match="12 classes asked for, the checkpoint has 10"):
        porter.load_model(SMALL, tmp_path / "a.pth", num_classes=12)


def test_the_image_size_comes_from_the_positions(tmp_path: Path) -> None:
    """A ViT of 384 pixels loads as such under the name of the one of 224."""
    porter.init("vit-tiny-p16-224", tmp_path / "a.pth", image_size=384)
    model = porter.load_model("vit-tiny-p16-224", tmp_path / "a.pth")
    assert model.pos_embed.shape == (1, 577, 192)


def test_half_precision_is_widened(folder: Path, tmp_path: Path) -> None:
    """The model stays float32 and holds the rounded values."""
    porter.convert(SMALL, folder / "a.pth", tmp_path / "h.pth", from_="torch", to="torch",
                   dtype="fp16", verify=False)  # fmt: skip
    model = porter.load_model(SMALL, tmp_path / "h.pth")
    found = arrays(model, "torch")["head.weight"]
    assert found.dtype == np.float32
    wanted = seeded(find(SMALL))["head.weight"].read().astype(np.float16)
    np.testing.assert_array_equal(found, wanted.astype(np.float32))


def test_another_model_s_file_is_named(folder: Path) -> None:
    """The error says what the checkpoint is."""
    with pytest.raises(MappingError, match="it fits pvtv2-b0"):
        porter.load_model("pvtv2-b1", folder / "a.pth")


def test_other_frameworks_are_refused(folder: Path) -> None:
    """There are two."""
    with pytest.raises(UsageError, match="unknown framework 'jax'; use torch or paddle"):
        porter.load_model(SMALL, folder / "a.pth", "jax")


def test_nothing_is_drawn_at_random(folder: Path) -> None:
    """A model that will be filled is not initialised before: that takes longer than to load."""
    import torch

    before = torch.get_rng_state()
    for name in ("a.pth", "a.pdparams"):
        porter.load_model(SMALL, folder / name)
    assert torch.equal(torch.get_rng_state(), before)


def test_loading_a_model_loads_no_compiler(folder: Path) -> None:
    """torch loads sympy to draw numbers for a tensor without memory: a second, for nothing."""
    code = (
        f"import porter, sys; porter.load_model({SMALL!r}, 'a.pth');"
        "assert 'torch' in sys.modules and 'sympy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)


@pytest.mark.parametrize("name", ["swin-tiny-w7-224", "vit-tiny-depthwise-224"])
def test_buffers_are_filled_too(tmp_path: Path, name: str) -> None:
    """What the architecture computes stands where nothing was computed at first."""
    porter.init(name, tmp_path / "a.safetensors", to="safetensors")
    wanted = seeded(find(name)).arrays()
    for framework in ("torch", "paddle"):
        found = arrays(porter.load_model(name, tmp_path / "a.safetensors", framework), framework)
        assert set(found) == set(wanted)
        buffers = [n for n in wanted if n.endswith(("_index", "_mask"))]
        assert buffers
        for key in buffers:
            assert found[key].tobytes() == wanted[key].tobytes(), key
        assert not any(np.isnan(array).any() for array in found.values())


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_a_blank_model_shows_what_nobody_filled(framework: str) -> None:
    """Every parameter is NaN: one that is forgotten spoils the output."""
    model = build(find(SMALL), framework, blank=True)
    for name, array in arrays(model, framework).items():
        assert np.isnan(array).all() if array.dtype.kind == "f" else not array.any(), name


def test_a_device_is_for_torch(folder: Path) -> None:
    """The model stands there; Paddle has a device for everything."""
    model = porter.load_model(SMALL, folder / "a.pth", device="cpu")
    assert {value.device.type for value in model.state_dict().values()} == {"cpu"}
    with pytest.raises(UsageError, match="device is for torch"):
        porter.load_model(SMALL, folder / "a.pth", "paddle", device="cpu")


def test_a_framework_that_is_not_there_says_how_to_get_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the checkpoint is read."""
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingPackage, match=r"not installed .*pip install"):
        porter.load_model(SMALL, folder / "nowhere.pth")
