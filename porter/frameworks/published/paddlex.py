"""PaddleX's Paddle classes of its models; runs in a child process of Paddle."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from porter.errors import InputError, MissingPackage
from porter.frameworks.precision.widened import widened
from porter.frameworks.providers import bare

CLASSES = {
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
    "pp_formulanet": "formula_recognition.modeling.pp_formulanet:PPFormulaNet",
    "uvdoc": "image_unwarping.modeling.uvdoc:UVDocNet",
}
"""PaddleX's Paddle classes by the `model_type` of the published config.json."""


_MODELS = "inference.models"
_BARE = (
    "inference", "inference.utils", "utils", _MODELS, f"{_MODELS}.common",
    f"{_MODELS}.common.tokenizer", f"{_MODELS}.doc_vlm", f"{_MODELS}.doc_vlm.modeling",
)  # fmt: skip
"""Packages of PaddleX whose own code imports what no class needs: pandas, modelscope, OpenCV."""
_NEEDS = ("colorlog", "prettytable", "jinja2", "requests")
"""What the classes import besides."""


def paddlex(name: str, **options: Any) -> Any:
    """Return PaddleX's Paddle class of a model, such as `PP-OCRv5_server_det`, or of a config.json.

    It takes pictures and returns what transformers' class returns: without the postprocessing.
    PP-FormulaNet takes the tokens before, too, and returns the scores of those that follow.
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
    if config is None or kind not in CLASSES:
        raise InputError("is not a model of PaddleX that porter knows", name)
    if options.pop("slope", "") == "exact":
        _exact_slope()
    model_class = _class(CLASSES[kind])
    model = model_class(model_class.config_class(**{**config, **options}))
    raw = partial(_RAW.get(kind, _pictures), model, model.forward)
    model.forward = partial(widened, "paddle", model, raw)
    return model


def _class(place: str) -> Any:
    """Import a class of PaddleX, without what its pipelines, training and serving need."""
    name, _, attribute = place.partition(":")
    try:
        if sys.modules.get("paddlex") is None:
            _prepare()
        return getattr(importlib.import_module(f"paddlex.{_MODELS}.{name}"), attribute)
    except ModuleNotFoundError as error:
        raise MissingPackage(
            f"this needs paddlex, which cannot be imported ({error.name} is missing); run"
            f" `pip install --no-deps paddlex` and `pip install {' '.join(_NEEDS)}`"
        ) from error


def _prepare() -> None:
    """Let the packages above PaddleX's classes be imported without running their code."""
    spec = importlib.util.find_spec("paddlex")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(name="paddlex")
    kinds = {place.partition(".")[0] for place in CLASSES.values()}
    parts = [*_BARE, *(f"{_MODELS}.{kind}" for kind in kinds)]
    folder = Path(spec.submodule_search_locations[0]).parent
    bare(folder, ("paddlex", *(f"paddlex.{part}" for part in parts)))


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


def _scores(model: Any, forward: Any, x: Any) -> Any:
    """Run a classifier, without the softmax of its scores."""
    kept: dict[str, Any] = {}
    name, key = ("fc", "logits") if hasattr(model, "fc") else ("head", "last_hidden_state")
    hook = getattr(model, name).register_forward_post_hook(
        lambda _, __, output: kept.update({key: output})
    )
    forward([x])
    hook.remove()
    return kept


def _detections(model: Any, _: Any, x: Any) -> Any:
    """Run a detector, without what makes boxes of its last layer."""
    found = model.model(x)
    names = {
        "logits": "intermediate_logits", "pred_boxes": "intermediate_reference_points",
        "order_logits": "out_order_logits", "out_masks": "out_masks",
    }  # fmt: skip
    return {name: found[key][:, -1] for name, key in names.items() if key in found}


def _read(model: Any, _: Any, x: Any) -> Any:
    """Run PP-DocLayoutV2, whose boxes are put in order by another network.

    Boxes over their class's threshold come first; the mask stays as it was, as in transformers.
    """
    import paddle
    from paddle.nn.functional import sigmoid

    found = _detections(model, None, x)
    logits, boxes = found["logits"], found["pred_boxes"]
    centres, sizes = boxes.split(2, axis=-1)
    corners = paddle.concat([centres - 0.5 * sizes, centres + 0.5 * sizes], axis=-1) * 1000
    labels = logits.argmax(axis=-1)
    least = paddle.to_tensor(model.config.class_thresholds, dtype=logits.dtype)
    kept = sigmoid(logits.max(axis=-1)) >= _of_class(least, labels)
    order = paddle.argsort(kept.astype("int32"), axis=1, descending=True, stable=True)
    first = paddle.take_along_axis(kept.astype("int64"), order, axis=1)
    ranks = paddle.to_tensor(model.config.class_order, dtype="int64")
    classes = _of_class(ranks, paddle.take_along_axis(labels, order, axis=1) * first)
    sorted_corners = _rows(corners.clip(0.0, 1000.0), order) * first.unsqueeze(-1).astype(x.dtype)
    ordered = model.reading_order(boxes=sorted_corners, labels=classes, mask=kept)
    return {
        "logits": _rows(logits, order), "pred_boxes": _rows(boxes, order),
        "order_logits": ordered[:, :, : model.config.num_queries],
    }  # fmt: skip


def _of_class(values: Any, labels: Any) -> Any:
    return values[labels.flatten()].reshape(labels.shape)


def _rows(array: Any, order: Any) -> Any:
    """Return the rows of an array (B, N, …) in another order (B, N)."""
    import paddle

    places = order.unsqueeze(-1).expand([-1, -1, array.shape[-1]])
    return paddle.take_along_axis(array, places, axis=1)


def _grid(model: Any, _: Any, x: Any) -> Any:
    """Run UVDoc up to its grid; transformers leaves the rest to its processor."""
    import paddle

    return {"last_hidden_state": model.head(paddle.concat(model.backbone(x), axis=1))}


def _taught(model: Any, _: Any, x: Any, tokens: Any) -> Any:
    """Run PP-FormulaNet on the tokens that were written, all at once."""
    hidden = model.model.decoder(
        input_ids=tokens, encoder_hidden_states=model.model.encoder(x), cache=None
    )
    return {"logits": model.lm_head(hidden)}


_RAW: dict[str, Callable[..., Any]] = {
    "rt_detr": _detections, "pp_doclayout_v2": _read, "pp_doclayout_v3": _detections,
    "uvdoc": _grid, "pp_formulanet": _taught, "pp_lcnet": _scores, "hgnet_v2": _scores,
}  # fmt: skip
