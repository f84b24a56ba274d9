"""A checkpoint of every family becomes ONNX, computes the golden logits, and comes back."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

import porter
from porter import codecs
from porter.errors import SystemFault, UsageError
from porter.frameworks.models import build
from porter.onnx.export.model import Sheet, pieces
from porter.onnx.export.write import Options, export
from porter.storage import atomic_output
from porter.tensors.dtypes import DTYPES
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import families, find
from porter.zoo.seeded import seeded
from tests.golden.cases import Case

LIMIT = 1e-4
"""Normalised error of the logits in ONNX Runtime; the largest measured is 4e-6."""

GOLDEN = [
    "shunted-t.official", "ceit-tiny-224.official", "ceit-rishikksh20-lca.seed",
    "cait-xxs24-224.official", "cait-xxs24-224.paddlevit", "vit-tiny-p16-224.timm",
    "vit-labml-cifar10.seed", "deit-tiny-distilled-224.timm", "deit-tiny-224.paddleclas",
    "swin-tiny-w7-224.official", "swin-tiny-w7-224.paddlevit", "pvtv2-b0.official",
    "dynamic-dwnet-tiny.official", "dy-resnet18.official", "vit-tiny-linformer-224.lucidrains",
    "pvt-tiny.official", "deit3-small-224.official",
]  # fmt: skip
EXOTIC = [
    "vit-small-p16-224.google", "vit-base-p32-224.torchvision", "deit-tiny-224.paddlevit",
    "deit-tiny-distilled-224.hf", "swin-tiny-w7-224.hf", "swin-tiny-w7-224.timm",
    "pvtv2-b0.timm", "vit-tiny-linformer-224.tatp22", "i-dynamic-dwnet-tiny.official",
]  # fmt: skip
"""Checkpoints in the naming and layout of other libraries."""
HALF_LIMIT = 2e-2
"""The same in fp16; the largest measured is 5.3e-3, 11 units of roundoff."""

UNPUBLISHED = [
    "vit-tiny-relu-224", "swin-tiny-depthwise-w7-224", "pp-lcnet-x0_25-textline-ori", "hgnet-v2-l",
    "pp-ocrv5-mobile-det", "pp-ocrv5-mobile-rec",
]  # fmt: skip
"""Variants without golden logits at their own image size."""


def logits(path: Path, image: np.ndarray) -> np.ndarray:
    """Return what ONNX Runtime computes, as float64."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    wanted = (
        ["logits"] if "logits" in names else names[:1]
    )  # a recogniser's probabilities are first
    return session.run(wanted, {session.get_inputs()[0].name: image})[0].astype(np.float64)


def same(found: StateDict, expected: StateDict) -> bool:
    """Whether two state dicts agree in names, order, dtypes, shapes and bytes."""
    return list(found) == list(expected) and all(
        (found[n].dtype, found[n].shape) == (t.dtype, t.shape)
        and np.array(found[n].read()).tobytes() == np.array(t.read()).tobytes()
        for n, t in expected.items()
    )


def test_every_family_is_tested() -> None:
    """A family that is added is tested here, too."""
    names = {name.partition(".")[0] for name in GOLDEN} | set(UNPUBLISHED)
    assert {find(name).family for name in names} == {
        family for family, variants in families().items() if variants[0].module
    }


def error(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the normalised error of logits."""
    return float(np.abs(found - expected).max() / np.sqrt((expected**2).mean()))


@pytest.mark.parametrize("name", [*GOLDEN, *EXOTIC])
def test_an_export_gives_the_golden_logits_and_comes_back(name: str, tmp_path: Path) -> None:
    """From any dialect to ONNX and back: the authors' logits, then the same checkpoint."""
    case = Case(name)
    source = case.save(tmp_path)
    model, back = tmp_path / "m.onnx", tmp_path / f"back{source.suffix}"
    porter.convert(case.variant, source, model, from_=case.side, to="onnx", verify=False)
    onnx.checker.check_model(str(model), full_check=True)
    assert error(logits(model, case.image()), case.logits) < LIMIT
    porter.convert(case.variant, model, back, from_="onnx", to=case.side, verify=False)
    mine, theirs = codecs.read(str(source)), codecs.read(str(back))
    kept = StateDict({n: t for n, t in mine.items() if n in theirs})
    assert same(StateDict({n: theirs[n] for n in kept}), kept)
    assert all(
        n.endswith(("num_batches_tracked", "index", "mask")) for n in set(mine) ^ set(theirs)
    )


@pytest.mark.parametrize("name", [n for n in GOLDEN if Case(n).framework == "torch"])
def test_a_paddle_checkpoint_gives_the_same_model(name: str, tmp_path: Path) -> None:
    """Of the same weights in Paddle's layout comes the same model, and they come back."""
    case = Case(name)
    source, paddle = case.save(tmp_path), tmp_path / "m.pdparams"
    porter.convert(case.variant, source, paddle, from_=case.side, to="paddle", verify=False)
    found = {}
    for side, path in ((case.side, source), ("paddle", paddle)):
        model = tmp_path / f"{side}.onnx"
        porter.convert(case.variant, path, model, from_=side, to="onnx", verify=False)
        proto = onnx.load(model)
        found[side] = [proto.graph.SerializeToString(deterministic=True)]
    assert found[case.side] == found["paddle"]
    back = tmp_path / "back.pdparams"
    porter.convert(
        case.variant, tmp_path / "paddle.onnx", back, from_="onnx", to="paddle", verify=False
    )
    assert back.read_bytes() == paddle.read_bytes()


@pytest.mark.parametrize("name", GOLDEN)
def test_an_fp16_export_is_within_its_own_floor(name: str, tmp_path: Path) -> None:
    """Half precision costs what half precision costs, and comes back as what was rounded."""
    case = Case(name)
    source, model, back = case.save(tmp_path), tmp_path / "m.onnx", tmp_path / "back.safetensors"
    porter.convert(case.variant, source, model, from_=case.side, to="onnx", dtype="fp16",
                   onnx={"io_dtype": "fp32"}, verify=False)  # fmt: skip
    assert LIMIT < error(logits(model, case.image()), case.logits) < HALF_LIMIT
    dialect = case.side.replace("torch", "safetensors").replace("paddle:", "safetensors:")
    porter.convert(case.variant, model, back, from_="onnx", to=dialect, verify=False)
    mine, theirs = codecs.read(str(source)), codecs.read(str(back))
    for tensor_name in theirs.keys() & mine.keys():
        array, found = mine[tensor_name].read(), np.array(theirs[tensor_name].read())
        rounded = array.astype(np.float16) if array.dtype == np.float32 else array
        assert found.tobytes() == np.array(rounded).tobytes(), tensor_name


@pytest.mark.parametrize("name", UNPUBLISHED)
def test_a_model_without_golden_logits_computes_the_reference_model(
    name: str, tmp_path: Path
) -> None:
    """The measure is porter's model, here on pictures of any form; all tensors come back."""
    written_and_restored(name, tmp_path)
    image = np.random.default_rng(0).standard_normal((2, 3, *find(name).sides()), np.float32)
    assert error(logits(tmp_path / "m.onnx", image), reference(name, image)) < LIMIT


def reference(name: str, image: np.ndarray) -> np.ndarray:
    """Return what porter's PyTorch model computes with seeded weights, in float64."""
    made = build(find(name), "torch").eval()
    made.load_state_dict(
        {n: torch.from_numpy(np.array(t.read())) for n, t in seeded(find(name)).items()}
    )
    with torch.no_grad():
        return made.double()(torch.from_numpy(image).double()).numpy()


def test_counters_and_nan_payloads_come_back(tmp_path: Path) -> None:
    """What the graph does not use, and what computes nothing sensible, survives."""
    state = dict(seeded(find("shunted-t")))
    bias = np.array(state["head.bias"].read())
    bias.view(np.uint32)[:3] = [
        0x7FA00001,
        0x80000000,
        0x00000001,
    ]  # NaN with payload, -0, denormal
    state["head.bias"] = LazyTensor.of(bias)
    written_and_restored("shunted-t", tmp_path, StateDict(state))


@pytest.mark.slow
def test_a_large_variant_comes_back_bit_for_bit(tmp_path: Path) -> None:
    """ViT-H/14, more than protobuf holds, is written with external data by itself."""
    written_and_restored("vit-huge-p14-224", tmp_path)
    (data,) = tmp_path.glob("m.onnx.*.data")
    assert data.stat().st_size > 2**31


def written_and_restored(name: str, folder: Path, state: StateDict | None = None) -> None:
    """Write a state dict and read it back."""
    from porter.onnx.recover.read import recover

    architecture = find(name)
    state = seeded(architecture) if state is None else state
    size = {"num_classes": architecture.num_classes, "image_size": architecture.image_size}
    export(architecture, state, folder / "m.onnx", **size)
    assert same(recover(architecture, folder / "m.onnx").state, state)


def test_other_classes_need_no_other_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fine-tuned head fits the template of its variant: nothing is traced."""
    from porter.onnx.export import template as templates

    monkeypatch.setattr(templates, "Worker", None)
    architecture = find("shunted-t")
    path = tmp_path / "m.onnx"
    state = seeded(architecture, num_classes=7)
    export(architecture, state, path, num_classes=7, image_size=224)
    onnx.checker.check_model(str(path), full_check=True)
    image = np.zeros((2, 3, 224, 224), np.float32)
    assert logits(path, image).shape == (2, 7)


def small() -> tuple:
    """Return what `export` needs for the smallest variant."""
    architecture = find("pvtv2-b0")
    return architecture, seeded(architecture)


def test_external_data_are_never_appended_to(tmp_path: Path) -> None:
    """Writing again replaces model and data as one, and leaves nothing of the old behind."""
    architecture, state = small()
    path, options = tmp_path / "m.onnx", Options(external_data=True)
    sizes = []
    for seed in range(3):
        state = seeded(architecture, seed=seed)
        export(
            architecture, state, path, num_classes=1000, image_size=224, options=options, force=True
        )
        data = list(tmp_path.glob("m.onnx.*.data"))
        sizes.append([p.stat().st_size for p in data])
        found = porter.open(path)
        assert same(found, StateDict({name: state[name] for name in found}))
    assert sizes[0] == sizes[1] == sizes[2]
    assert len(sizes[0]) == 1
    export(architecture, state, path, num_classes=1000, image_size=224, force=True)
    assert {p.name for p in tmp_path.iterdir()} == {"m.onnx", "m.onnx.porter.json"}


def test_external_data_stay_with_their_model_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the new model cannot be written, the old one still finds its own data."""
    architecture, state = small()
    path, options = tmp_path / "m.onnx", Options(external_data=True)
    sizes = {"num_classes": 1000, "image_size": 224}
    export(architecture, state, path, options=options, **sizes)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    publish = atomic_output.publish

    def failing(target: str, *args: object, **more: object) -> object:
        if os.fspath(target) == os.fspath(path):
            raise SystemFault("no space left", target)
        return publish(target, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(atomic_output, "publish", failing)
    with pytest.raises(SystemFault):
        export(
            architecture, seeded(architecture, seed=1), path, options=options, force=True, **sizes
        )
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_another_file_of_the_name_of_the_data_is_left_alone(tmp_path: Path) -> None:
    """Data under the name that is wanted, with other bytes, are not replaced."""
    architecture, state = small()
    options, sizes = Options(external_data=True), {"num_classes": 1000, "image_size": 224}
    export(architecture, state, tmp_path / "m.onnx", options=options, **sizes)
    (data,) = tmp_path.glob("m.onnx.*.data")
    (tmp_path / "m.onnx").unlink()
    export(architecture, state, tmp_path / "m.onnx", options=options, **sizes)  # the same bytes
    (tmp_path / "m.onnx").unlink()
    data.write_bytes(b"precious")
    with pytest.raises(UsageError, match="exists already"):
        export(architecture, state, tmp_path / "m.onnx", options=options, **sizes)
    assert data.read_bytes() == b"precious"
    assert {p.name for p in tmp_path.iterdir()} == {data.name, "m.onnx.porter.json"}


def test_the_bytes_of_a_model_do_not_depend_on_what_it_replaces(tmp_path: Path) -> None:
    """Model and data are the same over another model as in an empty folder, and as private."""
    architecture, state = small()
    options, sizes = Options(external_data=True), {"num_classes": 1000, "image_size": 224}
    for name in ("fresh", "again"):
        (tmp_path / name).mkdir()
    export(architecture, state, tmp_path / "fresh" / "m.onnx", options=options, **sizes)
    path = tmp_path / "again" / "m.onnx"
    export(architecture, seeded(architecture, seed=1), path, options=options, **sizes)
    for file in path.parent.iterdir():
        file.chmod(0o600)
    export(architecture, state, path, options=options, force=True, **sizes)
    names = [p.name for p in path.parent.iterdir() if p.suffix != ".json"]
    assert len(names) == 2
    for name in names:
        assert (tmp_path / "fresh" / name).read_bytes() == (path.parent / name).read_bytes()
        assert stat.S_IMODE((path.parent / name).stat().st_mode) == 0o600


def test_more_than_protobuf_holds_is_refused_inside() -> None:
    """A model of more than 2 GiB says so, and what helps."""
    from porter.onnx.export.template import template

    big = LazyTensor(DTYPES["float32"], (1 << 29,), lambda: np.zeros(1 << 29, np.float32))
    sheet = Sheet(template(find("pvtv2-b0")).model.graph, 10, {"": 20})
    with pytest.raises(UsageError, match="--external-data"):
        list(pieces(sheet, {"w": big}, {}))


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    """The graph and the weights must agree before anything is written."""
    architecture, state = small()
    wrong = StateDict({**state, "head.bias": LazyTensor.of(np.zeros(3, np.float32))})
    with pytest.raises(UsageError, match=r"head\.bias is \[3\]"):
        export(architecture, wrong, tmp_path / "m.onnx", num_classes=1000, image_size=224)
    assert list(tmp_path.iterdir()) == []
