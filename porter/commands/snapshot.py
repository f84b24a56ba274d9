"""Write a folder that transformers loads: configuration, preprocessing and weights."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Unpack

from porter import codecs
from porter.checkpoints.characters import LIST
from porter.errors import SystemFault, UsageError, printable
from porter.planning.plan import Plan
from porter.storage.atomic_output import Written
from porter.storage.lock import hidden
from porter.storage.options import WriteFields
from porter.storage.read_back import Proof
from porter.tensors.state_dict import StateDict
from porter.zoo.architectures import Architecture
from porter.zoo.preprocessing import RESAMPLE, Preprocessing
from porter.zoo.published import published_config, published_processor

_WEIGHTS = "model.safetensors"
_COMMON: dict[str, Any] = {
    "num_channels": 3,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.02,
    "qkv_bias": True,
}


def write(
    architecture: Architecture,
    plan: Plan,
    state: StateDict,
    path: str,
    *,
    metadata: Mapping[str, str] | None = None,
    inputs: tuple[str, ...] = (),
    proof: Proof | None = None,
    preprocessing: Preprocessing | None = None,
    characters: Sequence[str] = (),
    labels: Sequence[str] = (),
    **options: Unpack[WriteFields],
) -> Written:
    """Write the folder whole or not at all; `Written` names the weights in it.

    `characters` are those of a recogniser's classes, `labels` the names of other classes; those of
    another number are not taken. Raises `UsageError` for what transformers has no configuration
    for, and for a path that exists: a folder is never replaced, unless it is empty.
    """
    files = {"config.json": config(architecture, plan)}
    if labels and len(labels) == len(files["config.json"].get("id2label", ())):
        files["config.json"]["id2label"] = {str(n): name for n, name in enumerate(labels)}
        files["config.json"]["label2id"] = {name: n for n, name in enumerate(labels)}
    if published_config(architecture) is None:
        files["preprocessor_config.json"] = preprocessor(
            preprocessing or architecture.preprocessing, plan
        )
    else:
        files |= published_processor(architecture)
    if characters:
        files["preprocessor_config.json"][LIST] = list(characters)
    path = os.path.abspath(path)
    if os.path.lexists(path) and not _is_empty_folder(path):
        raise UsageError("exists already; a folder is not replaced: name another", path)
    pool = options.get("pool")
    with _hidden_folder(path, options.get("max_shard_size") is not None) as folder:
        if pool is None or not pool.is_worker:
            for file, content in files.items():
                _write_json(os.path.join(folder, file), content)
        written = codecs.write(
            state, os.path.join(folder, _WEIGHTS), "safetensors",
            metadata={"format": "pt", **(metadata or {})}, inputs=inputs, proof=proof, **options,
        )  # fmt: skip
        if options.get("places") is not None and not os.path.exists(written.path):
            return written  # It was sent, with the other files.
        _publish(folder, path)

    def moved(old: str) -> str:
        return os.path.join(path, os.path.relpath(old, folder)) if old else ""

    added = (os.path.join(path, file) for file in files)
    return replace(
        written,
        path=moved(written.path),
        record=moved(written.record),
        files=(*added, *map(moved, written.files)),
    )


@contextmanager
def _hidden_folder(path: str, in_shards: bool) -> Iterator[str]:
    """Make a folder next to `path`, and remove it unless it has another name then.

    That of an output in shards has the same name for all processes that write them, and stays as
    long as there is a journal in it: the same run again goes on.
    """
    parent, name = os.path.split(path)
    if not os.path.isdir(parent):
        raise UsageError("cannot be written: its folder does not exist", path)
    folder = hidden(path, "folder")
    parts = hidden(os.path.join(folder, _WEIGHTS), "parts")
    try:
        if in_shards:
            if not os.path.exists(parts):  # Of a run that was killed when it was all but done.
                shutil.rmtree(folder, ignore_errors=True)
            os.makedirs(folder, mode=0o700, exist_ok=True)
        else:
            folder = tempfile.mkdtemp(prefix=f".{name}.", dir=parent)
    except OSError as fault:
        raise SystemFault(f"cannot be written: {fault.strerror}", path) from fault
    try:
        yield folder
    finally:
        if not os.path.exists(parts):
            shutil.rmtree(folder, ignore_errors=True)


def _is_empty_folder(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path) and not os.listdir(path)


def _write_json(path: str, content: Mapping[str, Any]) -> None:
    try:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as fault:
        raise SystemFault(f"cannot be written: {fault.strerror}", path) from fault


def _publish(hidden: str, path: str) -> None:
    """Give a complete folder its name, with the permissions that a new folder has."""
    mask = os.umask(0)
    os.umask(mask)
    try:
        os.chmod(hidden, 0o777 & ~mask)
        os.rename(hidden, path)
    except OSError as fault:
        raise SystemFault(f"cannot be written: {fault.strerror}", path) from fault


def config(architecture: Architecture, plan: Plan) -> dict[str, Any]:
    """Return `config.json`; `UsageError` for a variant that transformers does not have."""
    published = published_config(architecture, plan.num_classes)
    if published is not None:
        return {**published, "torch_dtype": "float32"}
    families = {"vit": _vit, "deit": _vit, "swin": _swin, "pvt": _pvt, "pvtv2": _pvtv2}
    make = families.get(architecture.family)
    if make is None or plan.features:
        what = f"{', '.join(plan.features)} of {architecture.name}" if make else architecture.name
        raise UsageError(f"transformers has no model for {printable(what)}; use --to torch")
    found = make(dict(architecture.config))
    kind, head = found.pop("kind"), found.pop("head", "ForImageClassification")
    classes = plan.num_classes
    labels = {str(n): f"LABEL_{n}" for n in range(classes)}
    return {
        "architectures": [kind + (head if classes else "Model")],
        **_COMMON,
        **found,
        "image_size": plan.image_size,
        "drop_path_rate": 0.0,
        "id2label": labels,
        "label2id": {label: int(number) for number, label in labels.items()},
        # PVT's configuration has a number of its own, which transformers 5 prefers to the labels.
        **({"num_labels": len(labels)} if found["model_type"] == "pvt" else {}),
        "torch_dtype": "float32",
    }


def _only(config: Mapping[str, Any], *known: str) -> None:
    if unknown := [key for key in config if key not in known]:
        what = printable(", ".join(unknown))
        raise UsageError(f"transformers has no model with {what}; use --to torch")


def _vit(config: dict[str, Any]) -> dict[str, Any]:
    _only(config, "patch_size", "dim", "depth", "num_heads", "mlp_ratio", "distilled", "norm_eps")
    dim, patch = config.get("dim", 768), config.get("patch_size", 16)
    distilled = bool(config.get("distilled"))
    kind = {"kind": "DeiT", "head": "ForImageClassificationWithTeacher", "model_type": "deit"}
    return {
        **(kind if distilled else {"kind": "ViT", "model_type": "vit"}),
        "hidden_size": dim,
        "num_hidden_layers": config.get("depth", 12),
        "num_attention_heads": config.get("num_heads", 12),
        "intermediate_size": dim * config.get("mlp_ratio", 4),
        "layer_norm_eps": config.get("norm_eps", 1e-6),
        "patch_size": patch,
        "encoder_stride": patch,
    }


def _swin(config: dict[str, Any]) -> dict[str, Any]:
    _only(
        config, "embed_dim", "depths", "num_heads", "window_size", "patch_size", "mlp_ratio"
    )  # fmt: skip
    embed_dim, depths = config["embed_dim"], config["depths"]
    return {
        "kind": "Swin",
        "model_type": "swin",
        "embed_dim": embed_dim,
        "depths": depths,
        "num_layers": len(depths),
        "num_heads": config["num_heads"],
        "window_size": config["window_size"],
        "patch_size": config.get("patch_size", 4),
        "mlp_ratio": float(config.get("mlp_ratio", 4)),
        "hidden_size": embed_dim << (len(depths) - 1),
        "use_absolute_embeddings": False,
        "layer_norm_eps": 1e-5,
        "encoder_stride": 32,
    }


def _pyramid(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "num_encoder_blocks": len(config["depths"]),
        "depths": config["depths"],
        "hidden_sizes": config["embed_dims"],
        "num_attention_heads": config["num_heads"],
        "mlp_ratios": config["mlp_ratios"],
        "strides": [4, 2, 2, 2],
        "layer_norm_eps": 1e-6,
    }


_PYRAMID = ("depths", "embed_dims", "num_heads", "mlp_ratios", "sr_ratios")


def _pvt(config: dict[str, Any]) -> dict[str, Any]:
    _only(config, *_PYRAMID)
    return {
        "kind": "Pvt",
        "model_type": "pvt",
        **_pyramid(config),
        "patch_sizes": [4, 2, 2, 2],
        "sequence_reduction_ratios": config["sr_ratios"],
    }


def _pvtv2(config: dict[str, Any]) -> dict[str, Any]:
    _only(config, *_PYRAMID, "linear")
    return {
        "kind": "PvtV2",
        "model_type": "pvt_v2",
        **_pyramid(config),
        "patch_sizes": [7, 3, 3, 3],
        "sr_ratios": config["sr_ratios"],
        "linear_attention": bool(config.get("linear")),
    }


def preprocessor(given: Preprocessing, plan: Plan) -> dict[str, Any]:
    """Return `preprocessor_config.json`: a processor that resizes a picture and crops it.

    Raises `UsageError` for pictures that it cannot prepare.
    """
    if given.channels != "RGB" or given.padding:
        what = f"channels {given.channels}" if given.channels != "RGB" else "padding"
        raise UsageError(f"{what}: the image processors of transformers do not have it")
    height, width = plan.architecture.sides(plan.image_size)
    is_whole = given.squash or height != width
    side = given.resize(height)
    whole = {"height": side, "width": side if height == width else width}
    return {
        "image_processor_type": "DeiTImageProcessor" if is_whole else "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": whole if is_whole else {"shortest_edge": side},
        "resample": RESAMPLE.index(given.interpolation),
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(given.mean),
        "image_std": list(given.std),
    }
