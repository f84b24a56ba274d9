"""Traces, pictures and arrays that are not what they should be: one line each, exit code 2."""

from __future__ import annotations

import io
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

import porter
from porter import codecs
from porter.commands.verify import record, verify
from porter.errors import InputError, PorterError, UsageError
from porter.frameworks.process import Pool
from porter.tensors.state_dict import StateDict
from porter.verification import trace as traces
from porter.verification.inputs import arrays, pictures
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded

VIT = find("vit-tiny-p16-224")
Tensors = dict[str, np.ndarray]


def weights() -> StateDict:
    return seeded(VIT, num_classes=10, image_size=32)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good trace with its layers and what they were called with."""
    path = tmp_path_factory.mktemp("traces") / "good.safetensors"
    record(VIT, weights(), path, image_size=32, batch_sizes=(1,), device="cpu", per_layer=True)
    return path


def opened(path: Path) -> tuple[Tensors, dict[str, Any], dict[str, str]]:
    with safe_open(path, "numpy") as file:
        metadata = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors, json.loads(metadata["porter"]), metadata


def tampered(path: Path, target: Path, change: Callable[[Tensors, dict[str, Any]], object]) -> Path:
    """Write a trace with something in it changed."""
    tensors, about, metadata = opened(path)
    change(tensors, about)
    save_file(tensors, target, {**metadata, "porter": json.dumps(about)})
    return target


def refused(error: PorterError) -> str:
    """Return the message of an error that is one line and exits with 2."""
    assert error.exit_code == 2
    assert "\n" not in str(error)
    assert len(str(error)) < 700
    return error.message


TAMPERED: dict[str, tuple[Callable[[Tensors, dict[str, Any]], object], str]] = {
    "another version": (lambda t, a: a.update(trace=7), "is a trace of version 7; this porter"),
    "no report": (lambda t, a: a.pop("report"), "damaged trace: KeyError"),
    "report of numbers": (lambda t, a: a["report"].update(label=3), "not text"),
    "report of another kind": (lambda t, a: a.update(report=[1]), "damaged trace: AttributeError"),
    "no classes": (lambda t, a: a.update(num_classes="ten"), "not positive numbers"),
    "size": (lambda t, a: a.update(image_size=64), r"expected|\(N, 3, 64, 64\)"),
    "no input": (lambda t, a: t.pop("input/seed0.batch1"), "damaged trace: KeyError"),
    "no cases": (lambda t, a: a.update(cases=[]), "no inputs or no outputs"),
    "NaN input": (lambda t, a: t["input/seed0.batch1"].fill(np.nan), "NaN or infinite"),
    "outputs lost": (
        lambda t, a: [t.pop(n) for n in [*t] if n.startswith("output/")],
        "no inputs or no outputs|cannot be read",  # layers may lie where outputs do
    ),
    "output of no case": (
        lambda t, a: t.update({"output/float64/other/logits": np.ones((1, 10))}),
        "not those of its inputs",
    ),
    "unknown precision": (
        lambda t, a: t.update({"output/int3/seed0.batch1/logits": np.ones((1, 10))}),
        "outputs in int3",
    ),
    "layer lost": (lambda t, a: t.pop("layer/float32/blocks.0.attn.qkv"), "KeyError"),
    "call lost": (lambda t, a: t.pop("call/blocks.0.attn.qkv/0", None) is None
                  and a["calls"].update({"": [{"array": "call/none"}]}), "missing|damaged"),
    "calls of another kind": (lambda t, a: a.update(calls={"blocks.0": 5}), "TypeError"),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_trace_is_refused(recorded: Path, tmp_path: Path, name: str) -> None:
    """What is missing, of another kind or version is said in one line."""
    change, said = TAMPERED[name]
    path = tampered(recorded, tmp_path / "t.safetensors", change)
    with pytest.raises(InputError, match=said) as caught:
        traces.load(path)
    refused(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_trace_that_is_cut_off_is_refused(recorded: Path, tmp_path: Path, share: float) -> None:
    """Half a file is neither a trace nor a checkpoint."""
    data = recorded.read_bytes()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError) as caught:
        verify(VIT, weights(), path, image_size=32)
    refused(caught.value)


def test_metadata_that_are_nested_without_end_are_refused(tmp_path: Path) -> None:
    """A header that would exhaust the parser is refused as any other."""
    path = tmp_path / "deep.safetensors"
    save_file({"x": np.ones(1)}, path, {"porter": "[" * 100_000})
    with pytest.raises(InputError) as caught:
        traces.load(path)
    refused(caught.value)


def test_fields_of_a_later_report_are_left_out(recorded: Path, tmp_path: Path) -> None:
    """What a later porter says beside the rest does no harm."""
    path = tampered(recorded, tmp_path / "t", lambda t, a: a["report"].update(colour="red"))
    assert traces.load(path).report.framework == "torch"


def test_nan_in_a_trace_fails_the_verdict(recorded: Path, tmp_path: Path) -> None:
    """NaN on either side is a failure with that word, not a refusal and not a success."""
    change = {"output/float64/seed0.batch1/logits": np.full((1, 10), np.nan)}
    path = tampered(recorded, tmp_path / "nan.safetensors", lambda t, a: t.update(change))
    with Pool() as pool:
        options: dict[str, Any] = {"image_size": 32, "diagnose": False, "pool": pool}
        right = verify(VIT, weights(), path, **options)
        left = verify(VIT, path, weights(), right_dialect="torch", **options)
    assert right.failed
    assert left.failed
    assert "NaN" in right.reason
    assert "NaN" in left.reason


def test_a_trace_of_another_architecture_is_refused(recorded: Path) -> None:
    """Two traces are no proof of a third model."""
    with pytest.raises(
        UsageError, match="is a trace of vit-tiny-p16-224, not of shunted-t"
    ) as caught:
        verify("shunted-t", recorded, recorded)
    refused(caught.value)


def test_calls_that_do_not_fit_are_refused(recorded: Path, tmp_path: Path) -> None:
    """A module that cannot be called with what was recorded is named, in one line."""

    def change(tensors: Tensors, about: dict[str, Any]) -> None:
        about["calls"]["blocks.3.norm1"] = [{"array": "input/seed0.batch1"}]
        tensors["layer/float64/blocks.3.norm1"] = tensors["layer/float64/blocks.3.norm1"] + 1
        tensors["output/float64/seed0.batch1/logits"] = np.ones((1, 10))

    path = tampered(recorded, tmp_path / "t.safetensors", change)
    with pytest.raises(InputError, match=r"blocks\.3\.norm1 cannot be called") as caught:
        verify(VIT, weights(), path, image_size=32)
    refused(caught.value)


def saved(folder: Path, name: str, image: Image.Image, **options: Any) -> None:
    folder.mkdir(exist_ok=True)
    image.save(folder / name, **options)


def test_pictures_of_every_kind_become_rgb(tmp_path: Path) -> None:
    """Grey, palette, alpha, CMYK, 16 bits and one pixel: float32 (1, 3, size, size), finite."""
    draw = np.random.default_rng(0)
    colours = Image.fromarray(draw.integers(0, 255, (40, 60, 3), np.uint8))
    for name, mode in (("grey", "L"), ("bit", "1"), ("palette", "P"), ("alpha", "RGBA")):
        saved(tmp_path, f"{name}.png", colours.convert(mode))
    saved(tmp_path, "cmyk.jpg", colours.convert("CMYK"))
    saved(tmp_path, "deep.png", Image.fromarray(draw.integers(0, 65535, (40, 60), np.uint16)))
    saved(tmp_path, "dot.png", colours.crop((0, 0, 1, 1)))
    saved(tmp_path, "moving.gif", colours, save_all=True, append_images=[colours])
    (tmp_path / "notes.txt").write_text("no picture")
    found = pictures(tmp_path, VIT.preprocessing, 32)
    assert len(found) == 8
    for array in found.values():
        assert (array.shape, array.dtype) == ((1, 3, 32, 32), np.dtype("float32"))
        assert np.isfinite(array).all()
    grey = found["grey.png"][0] * np.reshape(VIT.preprocessing.std, (3, 1, 1))
    shift = grey + np.reshape(VIT.preprocessing.mean, (3, 1, 1))
    assert np.allclose(shift[0], shift[2], atol=1e-6)


def test_pixels_are_taken_as_they_are_stored(tmp_path: Path) -> None:
    """An EXIF orientation turns nothing, as with torchvision's folders of images."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:32] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    saved(tmp_path, "turned.png", Image.fromarray(pixels), exif=exif)
    (array,) = pictures(tmp_path, VIT.preprocessing, 32).values()
    assert array[0, 0, 2].min() > array[0, 0, -3].max()


@pytest.mark.posix
def test_pictures_run_no_program_and_show_no_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """PostScript called .jpg starts no Ghostscript, a large picture warns nobody, a pipe is not
    waited for, and a name that is not UTF-8 is a case all the same."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "bin" / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (40, 60)).save(tmp_path / "a" / "x.jpg", "eps")
    os.mkfifo(tmp_path / "b" / "x.png")
    for name in ("a", "b"):
        with pytest.raises(InputError):
            pictures(tmp_path / name, VIT.preprocessing, 32)
    assert not (tmp_path / "ran").exists()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    Image.new("RGB", (40, 60)).save(tmp_path / "c" / os.fsdecode(b"\xff.png"), "png")
    assert list(pictures(tmp_path / "c", VIT.preprocessing, 32)) == ["\\xff.png"]
    assert not recwarn.list


def test_bad_pictures_are_refused(tmp_path: Path) -> None:
    """No folder, none in it, a damaged one, one too long: one line that names the file."""
    colours = Image.new("RGB", (40, 60), "red")
    cases = {"none": None, "empty": None, "text.png": b"no picture", "zero.jpg": b""}
    for name in ("a.png", "a.jpg", "a.gif", "a.tif", "a.webp", "a.bmp"):
        buffer = io.BytesIO()
        colours.save(buffer, {"jpg": "jpeg", "tif": "tiff"}.get(name[2:], name[2:]))
        cases[f"cut.{name[2:]}"] = buffer.getvalue()[: len(buffer.getvalue()) // 2]
    buffer = io.BytesIO()
    Image.new("RGB", (2, 200)).save(buffer, "png")
    cases["long.png"] = buffer.getvalue()
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR"
    cases["bomb.png"] = header + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0) + b"\0" * 4
    for name, data in cases.items():
        folder = tmp_path / f"of {name}"
        if name != "none":
            folder.mkdir()
        if data is not None:
            (folder / name).write_bytes(data)
        with pytest.raises(InputError) as caught:
            pictures(folder, VIT.preprocessing, 32)
        refused(caught.value)
        assert os.fspath(folder) in str(caught.value)


def test_bad_arrays_are_refused(tmp_path: Path) -> None:
    """Shapes, kinds, NaN, nothing at all, objects, half a file: one line each."""
    good = np.ones((2, 3, 32, 32), np.float32)
    bad = {
        "size": np.ones((1, 3, 64, 64)), "channels": np.ones((1, 1, 32, 32)), "one": good[0],
        "none": good[:0], "text": np.full((1, 3, 32, 32), "a"), "complex": good.astype(complex),
        "nan": good * np.nan, "huge": good.astype(np.float64) * 1e300,
        "objects": np.full((1, 3, 32, 32), None),
    }  # fmt: skip
    for name, array in bad.items():
        np.savez(tmp_path / f"{name}.npz", ok=good, wrong=array)
    np.savez(tmp_path / "nothing.npz")
    np.savez(tmp_path / "whole.npz", ok=good)
    data = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[: len(data) // 2])
    (tmp_path / "flipped.npz").write_bytes(data[:9000] + b"\xff" + data[9001:])
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "whole.npz").unlink()
    files = [*sorted(tmp_path.glob("*.npz")), tmp_path / "missing.npz"]
    assert len(files) == 14
    for path in files:
        with pytest.raises(InputError) as caught:
            arrays(path, 32)
        refused(caught.value)


def test_pipes_and_endless_files_are_refused(tmp_path: Path) -> None:
    """Nothing waits for a pipe, and a device is not read."""
    for name in ("pipe.npy", "picture.png"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="is a pipe, not a file"):
        arrays(tmp_path / "pipe.npy", 32)
    with pytest.raises(InputError, match="is a pipe, not a file"):
        pictures(tmp_path, VIT.preprocessing, 32)
    with pytest.raises(InputError, match="is a device, not a file"):
        arrays("/dev/zero", 32)


@pytest.mark.parametrize(("format", "suffix"), [("paddle", ".pdparams"), ("torch", ".pth")])
def test_a_port_in_the_layout_of_the_other_framework(
    format: str, suffix: str, tmp_path: Path
) -> None:
    """It is refused, and not run by the framework that it was to be ported from."""
    right, wrong = tmp_path / "right.safetensors", tmp_path / f"wrong{suffix}"
    porter.init("pvtv2-b0", right, to="paddle" if format == "torch" else "torch")
    codecs.write(codecs.read(str(right)), str(wrong), format=format)
    other = "paddle" if format == "torch" else "torch"
    with pytest.raises(UsageError) as caught:
        verify("pvtv2-b0", right, wrong)
    message = refused(caught.value)
    assert f"is a {format} file that fits pvtv2-b0 only as {other}" in message
    assert f"--right {other} compares" in message
