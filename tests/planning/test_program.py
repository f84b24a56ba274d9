"""Inference models of PaddleOCR's models: recognised and named by how they are wired."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from porter.reference_models import FOLDER

import porter
from porter import codecs
from porter.codecs.paddle.wiring import Step
from porter.commands.recognised import source
from porter.errors import InputError, UsageError
from porter.planning.check import dialect_tensors
from porter.planning.program.forms import forms
from porter.planning.program.names import named_as
from porter.zoo.architectures import find
from porter.zoo.wiring import CONSTANT, parse, render, wiring_of
from tests.codecs.paddle import wired
from tests.codecs.paddle.programs import save

RECORDED = sorted(path.stem for path in (FOLDER / "wirings").glob("*.txt"))
FAMILIES = {
    "hgnet-v2", "pp-doclayoutv2", "pp-doclayoutv3", "pp-lcnet", "pp-ocrv5-mobile-det",
    "pp-ocrv5-mobile-rec", "pp-ocrv5-server-det", "pp-ocrv5-server-rec", "pp-ocrv6-medium-det",
    "pp-formulanet", "pp-ocrv6-rec", "pp-ocrv6-small-det", "pp-ocrv6-tiny-rec", "rt-detr", "slanet",
    "slanext", "uvdoc",
}  # fmt: skip
UNREAD = ("act.lab.scale", "act.lab.bias", "denoising_class_embed.weight",
          "rel_pos_x_bias.weight", "rel_pos_y_bias.weight")  # fmt: skip
"""Endings of tensors on which no output depends: a program does not have them."""


def programmed(steps: Sequence[Step]) -> list[Step]:
    """Return steps with the names that a program would have."""
    names: dict[str, str] = {}
    for step in steps:
        for name in step.parameters:
            names.setdefault(name, f"parameter_{len(names)}")
    return [replace(s, parameters=tuple(names[n] for n in s.parameters)) for s in steps]


def test_the_wiring_of_these_families_is_recorded() -> None:
    """All of PaddleOCR's."""
    assert {find(name).family for name in RECORDED} == FAMILIES


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_wiring_has_the_tensors_of_the_model(name: str) -> None:
    """Every tensor of Paddle's naming is read by an operation, but those without effect."""
    steps = wiring_of(find(name))
    assert parse(render(steps)) == steps
    read = {one for step in steps for shared in step.parameters for one in shared.split("=")}
    tensors = dialect_tensors(find(name), "paddle")
    read = {one for one in read if not one.startswith(CONSTANT)}
    assert read <= tensors.keys()
    assert all(left.endswith(UNREAD) for left in tensors.keys() - read)


def _regrouped(steps: Sequence[Step]) -> Iterator[Step]:
    """Yield steps in another order of execution: each as early as what it reads allows."""
    depth: list[int] = []
    for step in steps:
        depth.append(1 + max((depth[place] for place in step.before), default=-1))
    order = sorted(range(len(steps)), key=lambda at: depth[at])
    places = {at: place for place, at in enumerate(order)}
    for at in order:
        yield replace(steps[at], before=tuple(sorted(places[b] for b in steps[at].before)))


@pytest.mark.parametrize("name", RECORDED)
def test_steps_are_named_whatever_their_order(name: str) -> None:
    """In the order of the authors' code every name comes back; in another, every place is taken."""
    variant = find(name)
    steps = wiring_of(variant)
    named = named_as(variant, programmed(steps))
    assert named is not None
    truth = dict(zip(
        (n for s in programmed(steps) for n in s.parameters),
        (n for s in steps for n in s.parameters),
        strict=True,
    ))  # fmt: skip
    assert named.names == truth
    again = named_as(variant, programmed(list(_regrouped(steps))))
    assert again is not None
    assert set(again.names.values()) == set(truth.values())


def test_each_wiring_is_of_one_family() -> None:
    """No model is taken for another, in any of its forms."""
    for name in RECORDED:
        for form in forms(wiring_of(find(name))):
            given = programmed(form.steps)
            fitting = {find(v).family for v in RECORDED if named_as(find(v), given)}
            assert fitting == {find(name).family}


def test_another_wire_is_another_model() -> None:
    """A step that reads an earlier result, or has another kernel, is not aligned."""
    variant = find("pp-ocrv6-tiny-rec")
    steps = programmed(wiring_of(variant))
    at = next(n for n, s in enumerate(steps) if n > 20 and s.label.startswith("conv2d:1x1"))
    for other in (
        replace(steps[at], before=(steps[at].before[0] - 1,)),
        replace(steps[at], label="conv2d:3x3/1x1"),
    ):
        assert named_as(variant, [*steps[:at], other, *steps[at + 1 :]]) is None


def test_merged_branches_are_one_convolution() -> None:
    """PP-LCNetV3's branches have the first one's place; what is filled adds nothing."""
    plain, merged, *_ = forms(wiring_of(find("pp-ocrv5-mobile-det")))
    module = "model.backbone.encoder.blocks.1.layers.1.depthwise_convolution"
    assert module in merged.merged
    assert len(merged.steps) < len(plain.steps)
    values = {n.removeprefix(f"{module}."): v for n, v in merged.filled.items() if module in n}
    assert values["identity.weight"] == 0
    assert values["identity._variance"] == 1
    assert values["conv_symmetric.3.convolution.weight"] == 0
    assert values["conv_symmetric.0.normalization.weight"] == 1
    assert values["conv_symmetric.0.normalization._variance"] == 1 - 1e-5
    assert "conv_symmetric.0.convolution.weight" not in values
    assert "conv_symmetric.0.normalization.bias" not in values


@pytest.mark.parametrize("name", ["pp-ocrv6-tiny-rec", "pp-lcnet-x0_25-textline-ori", "slanet"])
def test_a_written_program_is_what_its_operations_say(name: str, tmp_path: Path) -> None:
    """Names and bytes come back without Paddle, whatever other code adds to the model."""
    variant = find(name)
    draw = np.random.default_rng(0)
    tensors = dialect_tensors(variant, "paddle")
    arrays = {n: draw.random(shape, np.float32) for n, (_, shape) in tensors.items()}
    folder = wired.write(tmp_path / "model", variant, arrays)
    match = porter.inspect(folder).matches[0]
    assert match.architecture is variant
    with pytest.raises(InputError, match="its operations are not those of uvdoc"):
        porter.convert("uvdoc", folder, tmp_path / "x.pth")
    porter.convert(name, folder, tmp_path / "x.pdparams", from_="paddle", verify=False)
    found = codecs.read(str(tmp_path / "x.pdparams")).arrays()
    assert found.keys() == arrays.keys()
    for key, array in arrays.items():
        assert found[key].tobytes() == array.tobytes(), key


def test_the_name_in_inference_yml_decides(tmp_path: Path) -> None:
    """Of models with the same operations; a name that does not fit is not believed."""
    variant = find("slanet")
    arrays = {n: np.zeros(shape, np.float32)
              for n, (_, shape) in dialect_tensors(variant, "paddle").items()}  # fmt: skip
    folder = wired.write(tmp_path / "model", variant, arrays)
    with pytest.raises(UsageError, match="fits slanet, slanet-plus: name one"):
        source(None, folder, None, None, None)
    stated = folder / "inference.yml"
    stated.write_text("Global: {model_name: SLANet_plus}\n")
    assert source(None, folder, None, None, None) == ("slanet-plus", "paddle-inference")
    assert porter.inspect(folder).matches[0].architecture.name == "slanet-plus"
    for text in ("Global: {model_name: UVDoc}\n", "Global: [", "Global: 1"):
        stated.write_text(text)
        with pytest.raises(UsageError, match="name one of them"):
            source(None, folder, None, None, None)


def test_norms_may_be_written_out_or_not() -> None:
    """PaddleOCR's code computes those of maps step by step, and has a head that is left out."""
    steps = wiring_of(find("slanext-wired"))
    assert [step.label for step in steps].count("multiply") == 2
    *_, bare = forms(steps)
    assert [step.label for step in bare.steps].count("multiply") == 0
    assert len(bare.steps) == len(steps) - 2 - 4
    named = named_as(find("slanext-wired"), programmed(bare.steps))
    assert named is not None
    assert "backbone.vision_tower.neck.layer_norm2.bias" in named.names.values()


BUILD = """
import numpy as np
from paddle import nn
from porter.commands.init import seeded_state
from porter.frameworks.models import build
from porter.zoo.architectures import find
variant = find("pp-lcnet-x0_25-textline-ori")
model = build(variant, "paddle", num_classes=3)
for name, tensor in seeded_state(variant, "paddle", num_classes=3).items():
    model.state_dict()[name].set_value(tensor.read())
paddle.save(model.state_dict(), sys.argv[1] + "-plain.pdparams")
"""
FOLDED = """
def folded(layer):
    conv, norm = layer.convolution, layer.normalization
    scale = norm.weight / (norm._variance + norm._epsilon).sqrt()
    new = nn.Conv2D(conv._in_channels, conv._out_channels, conv._kernel_size, conv._stride,
                    conv._padding, groups=conv._groups)
    new.weight.set_value(conv.weight * scale.reshape([-1, 1, 1, 1]))
    new.bias.set_value(norm.bias - norm._mean * scale)
    layer.convolution, layer.normalization = new, nn.Identity()
for layer in model.sublayers():
    if hasattr(layer, "normalization"):
        folded(layer)
"""
SHAPE = "[None, 3, 80, 160]"
PREDICTED = """
from paddle import inference
program = sys.argv[1] + "SUFFIX"
predictor = inference.create_predictor(inference.Config(program, sys.argv[1] + ".pdiparams"))
given = np.random.default_rng(5).standard_normal((2, 3, 80, 160)).astype(np.float32)
predictor.get_input_handle(predictor.get_input_names()[0]).copy_from_cpu(given)
predictor.run()
found = predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()
np.savez(sys.argv[1] + "-predicted.npz", given=given, found=found)
"""
"""What Paddle's own predictor computes with a program."""


def _saved(folder: Path, *, pir: bool = True, more: str = "") -> Path:
    """Save the model in a folder of its own; returns the path of its plain checkpoint."""
    (folder / "model").mkdir()
    after = PREDICTED.replace("SUFFIX", ".json" if pir else ".pdmodel")
    save(folder / "model", pir=pir, build=BUILD + more, shape=SHAPE, fill=False, after=after)
    for path in [*(folder / "model").glob("*.npz"), *(folder / "model").glob("*.pdparams")]:
        path.rename(folder / path.name)
    return folder / "inference-plain.pdparams"


def _computes_as_the_program(folder: Path, checkpoint: Path) -> None:
    """Check the outputs of what was converted against those of Paddle's predictor."""
    import torch

    model = porter.load_model("pp-lcnet-x0_25-textline-ori", checkpoint).eval()
    with np.load(folder / "inference-predicted.npz") as predicted, torch.no_grad():
        found = model(torch.from_numpy(predicted["given"])).numpy()
        error = np.abs(found - predicted["found"]).max() / np.abs(predicted["found"]).max()
    assert error < 1e-5  # 2e-6 and, with folded norms, 6e-7 were measured


def test_a_folder_of_a_published_model_is_converted(tmp_path: Path) -> None:
    """Recognised, named, and the checkpoint that was saved, bit for bit."""
    plain = _saved(tmp_path)
    (match,) = porter.inspect(tmp_path / "model").matches
    assert (match.architecture.name, match.num_classes) == ("pp-lcnet-x0_25-textline-ori", 3)
    assert source(None, tmp_path / "model", "paddle", None, None)[1] == "paddle-inference"
    outcome = porter.convert(
        None, tmp_path / "model", tmp_path / "x.safetensors", to="torch:hf", verify=False
    )
    assert outcome.ok
    assert any("146 tensors placed" in note for note in outcome.origin.notes)
    porter.convert(
        "pp-lcnet-x0_25-textline-ori", tmp_path / "x.safetensors", tmp_path / "x.pdparams",
        from_="torch:hf", verify=False,
    )  # fmt: skip
    found, truth = (codecs.read(str(p)).arrays() for p in (tmp_path / "x.pdparams", plain))
    assert found.keys() == truth.keys()
    for name, array in truth.items():
        assert found[name].tobytes() == array.tobytes(), name
    _computes_as_the_program(tmp_path, tmp_path / "x.pdparams")
    with pytest.raises(InputError, match="not those of pp-ocrv6-tiny-rec"):
        porter.convert("pp-ocrv6-tiny-rec", tmp_path / "model", tmp_path / "y.pth")


def test_folded_norms_are_taken_when_asked(tmp_path: Path) -> None:
    """Of a ProgramDesc with folded norms: refused by name, or one convolution and an identity."""
    plain = codecs.read(str(_saved(tmp_path, pir=False, more=FOLDED))).arrays()
    output = tmp_path / "x.pdparams"
    with pytest.raises(InputError, match=r"27 layers were merged .*--fold-batchnorm"):
        porter.convert(source=tmp_path / "model", output=output)
    outcome = porter.convert(
        source=tmp_path / "model", output=output, verify=False, fold_batchnorm=True
    )
    assert any("merged for deployment, one way" in note for note in outcome.origin.notes)
    found = codecs.read(str(output)).arrays()
    assert found.keys() == plain.keys()
    stem = "encoder.convolution"
    scale = plain[f"{stem}.normalization.weight"] / np.sqrt(
        plain[f"{stem}.normalization._variance"] + 1e-5
    )
    kernel = plain[f"{stem}.convolution.weight"] * scale[:, None, None, None]
    assert np.allclose(found[f"{stem}.convolution.weight"], kernel, rtol=1e-6)
    assert (found[f"{stem}.normalization.weight"] == 1).all()
    assert np.allclose(found[f"{stem}.normalization._variance"] + np.float32(1e-5), 1)
    bias = plain[f"{stem}.normalization.bias"] - plain[f"{stem}.normalization._mean"] * scale
    assert np.allclose(found[f"{stem}.normalization.bias"], bias, rtol=1e-5, atol=1e-6)
    _computes_as_the_program(tmp_path, output)


def test_variants_of_one_structure_are_told_by_their_strides() -> None:
    """Text lines have other strides than documents; documents and tables differ in classes only."""
    steps = programmed(wiring_of(find("pp-lcnet-x1_0-doc-ori")))
    assert [v for v in RECORDED if named_as(find(v), steps)] == ["pp-lcnet-x1_0-doc-ori"]
    assert named_as(find("pp-lcnet-x1_0-table-cls"), steps) is not None
