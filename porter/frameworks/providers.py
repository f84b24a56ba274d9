"""Models of other packages by name, freshly initialised; each function runs in a child process.

No weights are downloaded. How to add one: `porter.frameworks.references`.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from porter.errors import InputError, MissingPackage, nearest, printable
from porter.frameworks.widened import widened


def _package(name: str, distribution: str = "") -> ModuleType:
    """Import a provider's package; `MissingPackage` says how to install it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingPackage(
            f"this needs {name}, which cannot be imported ({error.name} is missing);"
            f" run `pip install {distribution or name}`"
        ) from error


def timm(name: str, **options: Any) -> Any:
    """Return timm's model of a name."""
    return _package("timm").create_model(name, **{"pretrained": False, **options})


def torchvision(name: str, **options: Any) -> Any:
    """Return torchvision's model of a name."""
    models = _package("torchvision.models", "torchvision")
    return models.get_model(name, **{"weights": None, **options})


def transformers(config: str, **options: Any) -> Any:
    """Return the model of a `config.json`, or of the folder that has one.

    Its class is the first of `architectures` in the file, or `architecture=NAME`; without either,
    the plain model. `outputs=logits,pred_boxes` chooses what it returns; with `tokens=8` a model
    that writes tokens writes so many. Other options replace values of the configuration.
    """
    package = _package("transformers")
    path = Path(config)
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        raise InputError("is not a config.json of transformers", config)
    wanted = options.pop("architecture", None)
    outputs, tokens = options.pop("outputs", ""), int(options.pop("tokens", 0))
    settings = package.AutoConfig.from_pretrained(str(path), local_files_only=True)
    for key, value in options.items():
        setattr(settings, key, value)
    name = wanted or next(iter(settings.architectures or ()), None)
    if name is None:
        model = package.AutoModel.from_config(settings)
    else:
        model = _named(package, str(name), "transformers")(settings)
    if tokens:
        model.forward = partial(_written, model, model.forward, tokens)
    if tokens or settings.model_type in _PADDLEX:
        model.forward = partial(widened, "torch", model, model.forward)
    if outputs:
        model.forward = partial(_chosen, model.forward, str(outputs).split(","))
    return model


def _written(model: Any, forward: Any, steps: int, x: Any) -> dict[str, Any]:
    """Return the most probable tokens that follow the first, and their scores: (batch, steps).

    The scores are logarithms of probabilities. The whole sequence is read again at each step:
    nothing depends on a cache. After its end a sequence has the padding token, and scores of 0.
    """
    import torch

    text = model.config.get_text_config(decoder=True)
    encoded = model.get_encoder()(pixel_values=x)
    tokens = torch.full((len(x), 1), text.decoder_start_token_id)
    ended = torch.zeros(len(x), dtype=torch.bool)
    scores: list[Any] = []
    while len(scores) < steps and not ended.all():
        found = forward(encoder_outputs=encoded, decoder_input_ids=tokens, use_cache=False)
        best, chosen = found.logits[:, -1].log_softmax(-1).max(-1)
        scores.append(torch.where(ended, 0.0, best))
        chosen = torch.where(ended, text.pad_token_id, chosen)
        tokens = torch.cat([tokens, chosen[:, None]], 1)
        ended |= chosen.eq(text.eos_token_id)
    return {"written": tokens[:, 1:], "scores": torch.stack(scores, 1)}


def _chosen(forward: Any, names: list[str], x: Any) -> Any:
    """Return some of a model's outputs by name."""
    found = forward(x)
    return {name: found[name] for name in names}


_PADDLEX = {
    "hgnet_v2": "image_classification.modeling.hgnetv2:HGNetV2ForImageClassification",
    "pp_lcnet": "image_classification.modeling.pplcnet:PPLCNet",
    "pp_ocrv5_mobile_det": "text_detection.modeling.pp_ocrv5_mobile_det:PPOCRV5MobileDet",
    "pp_ocrv5_server_det": "text_detection.modeling.pp_ocrv5_server_det:PPOCRV5ServerDet",
    "pp_ocrv6_small_det": "text_detection.modeling.pp_ocrv6_small_det:PPOCRV6SmallDet",
    "pp_ocrv6_medium_det": "text_detection.modeling.pp_ocrv6_medium_det:PPOCRV6MediumDet",
    "pp_ocrv5_mobile_rec": "text_recognition.modeling.pp_ocrv5_mobile_rec:PPOCRV5MobileRec",
    "pp_ocrv5_server_rec": "text_recognition.modeling.pp_ocrv5_server_rec:PPOCRV5ServerRec",
    "pp_ocrv6_small_rec": "text_recognition.modeling.pp_ocrv6_small_rec:PPOCRV6SmallRec",
    "pp_ocrv6_tiny_rec": "text_recognition.modeling.pp_ocrv6_tiny_rec:PPOCRV6TinyRec",
    "rt_detr": "object_detection.modeling.rt_detr:RTDETR",
    "pp_doclayout_v2": "object_detection.modeling.pp_doclayout_v2:PPDocLayoutV2",
    "pp_doclayout_v3": "object_detection.modeling.pp_doclayout_v3:PPDocLayoutV3",
    "slanet": "table_structure_recognition.modeling.slanet:SLANet",
    "slanext": "table_structure_recognition.modeling.slanext:SLANeXt",
    "uvdoc": "image_unwarping.modeling.uvdoc:UVDocNet",
}
"""PaddleX's Paddle classes by the `model_type` of the published config.json."""


def paddlex(name: str, **options: Any) -> Any:
    """Return PaddleX's Paddle class of a model, such as `PP-OCRv5_server_det`, or of a config.json.

    It takes pictures and returns what transformers' class returns: without the postprocessing.
    With `slope=exact` the hard sigmoid is PyTorch's, of slope 1/6 instead of 0.1666667. Other
    options replace values of the configuration.
    """
    from porter.zoo.architectures import find
    from porter.zoo.published import published_config

    path = Path(name, "config.json") if Path(name).is_dir() else Path(name)
    if path.is_file():
        config: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8"))
    else:
        config = published_config(find(name))
    kind = (config or {}).get("model_type")
    if config is None or kind not in _PADDLEX:
        raise InputError("is not a model of PaddleX that porter knows", name)
    place, _, attribute = _PADDLEX[kind].partition(":")
    _package("paddlex")
    if options.pop("slope", "") == "exact":
        _exact_slope()
    model_class = getattr(importlib.import_module(f"paddlex.inference.models.{place}"), attribute)
    model = model_class(model_class.config_class(**{**config, **options}))
    raw = partial(_RAW.get(kind, _pictures), model, model.forward)
    model.forward = partial(widened, "paddle", model, raw)
    return model


def _exact_slope() -> None:
    """Let this process compute the hard sigmoid as PyTorch does."""
    import paddle.nn.functional

    paddle.nn.functional.hardsigmoid = _hardsigmoid


def _hardsigmoid(x: Any, *_: Any, **__: Any) -> Any:
    """Compute it by other operations: Paddle's own keeps its slope in float32."""
    import paddle

    return paddle.clip(x / 6 + 0.5, 0.0, 1.0)


def _pictures(model: Any, forward: Any, x: Any) -> Any:
    """Run a class that takes a list and returns a list of arrays."""
    import paddle

    found = forward([x])[0]
    return {"last_hidden_state": found if paddle.is_tensor(found) else paddle.to_tensor(found)}


def _detections(model: Any, _: Any, x: Any) -> Any:
    """Run a detector, without what makes boxes of its last layer."""
    found = model.model(x)
    return {
        "logits": found["intermediate_logits"][:, -1],
        "pred_boxes": found["intermediate_reference_points"][:, -1],
    }


def _grid(model: Any, _: Any, x: Any) -> Any:
    """Run UVDoc up to its grid; transformers leaves the rest to its processor."""
    import paddle

    return {"last_hidden_state": model.head(paddle.concat(model.backbone(x), axis=1))}


_RAW = {
    "rt_detr": _detections, "pp_doclayout_v2": _detections, "pp_doclayout_v3": _detections,
    "uvdoc": _grid,
}  # fmt: skip


def paddle_vision(name: str, **options: Any) -> Any:
    """Return the model of a function of `paddle.vision.models`."""
    models = _package("paddle.vision.models", "paddlepaddle")
    return _named(models, name, "paddle.vision.models")(**options)


def ppim(name: str, **options: Any) -> Any:
    """Return the model of a function of Paddle Image Models."""
    return _named(_package("ppim.models", "--no-deps ppim"), name, "ppim.models")(**options)


def paddleclas(name: str, **options: Any) -> Any:
    """Return PaddleClas's backbone of a name.

    Its packages above the backbones are not run: they import what training and serving need.
    """
    spec = importlib.util.find_spec("paddleclas")
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackage("this needs paddleclas; run `pip install --no-deps paddleclas`")
    folder = Path(spec.submodule_search_locations[0]) / "ppcls"
    for path in (folder, folder / "arch", folder / "utils"):
        package = ".".join(path.relative_to(folder.parent).parts)
        if package not in sys.modules:
            module = ModuleType(package)
            module.__path__ = [str(path)]
            sys.modules[package] = module
    logger = importlib.import_module("ppcls.utils.logger")
    sys.modules["ppcls.utils"].logger = logger  # type: ignore[attr-defined]
    logger.init_logger()
    return _named(_package("ppcls.arch.backbone", "paddleclas"), name, "PaddleClas")(**options)


def _named(module: ModuleType, name: str, place: str) -> Any:
    found = None if name.startswith("_") else getattr(module, name, None)
    if found is None:
        near = nearest(name, [n for n in dir(module) if not n.startswith("_")])
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"{place} has no model {printable(name)!r}{hint}")
    return found
