"""Models of transformers by their `config.json`; runs in a child process of torch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from porter.errors import InputError
from porter.frameworks.precision.widened import widened
from porter.frameworks.providers import named, package
from porter.frameworks.published.paddlex import CLASSES


def transformers(config: str, **options: Any) -> Any:
    """Return the model of a `config.json`, or of the folder that has one.

    Its class is the first of `architectures` in the file, or `architecture=NAME`; without either,
    the plain model. `outputs=logits,pred_boxes` chooses what it returns; with `tokens=8` a model
    that writes tokens writes so many, without it PP-FormulaNet takes a picture and the tokens
    before. Other options replace values of the configuration.
    """
    library = package("transformers")
    path = Path(config)
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        raise InputError("is not a config.json of transformers", config)
    wanted = options.pop("architecture", None)
    outputs, tokens = options.pop("outputs", ""), int(options.pop("tokens", 0))
    settings = library.AutoConfig.from_pretrained(str(path), local_files_only=True)
    for key, value in options.items():
        setattr(settings, key, value)
    name = wanted or next(iter(settings.architectures or ()), None)
    if name is None:
        model = library.AutoModel.from_config(settings)
    else:
        model = named(library, str(name), "transformers")(settings)
    if tokens:
        model.forward = partial(_written, model, model.forward, tokens)
    if settings.model_type == "pp_formulanet" and not tokens:
        model.forward = partial(_taught, model, model.forward)
    elif tokens or settings.model_type in CLASSES:
        model.forward = partial(widened, "torch", model, model.forward)
    if settings.model_type == "pp_doclayout_v2":
        _keep_equal_rows()
    if outputs:
        model.forward = partial(_chosen, model.forward, str(outputs).split(","))
    return model


def _keep_equal_rows() -> None:
    """Let this process sort as other frameworks do: what is equal stays in its order."""
    import torch

    torch.argsort = partial(torch.argsort, stable=True)


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


def _taught(model: Any, forward: Any, *inputs: Any, **named: Any) -> Any:
    """Return the scores of what follows each of the tokens: of a picture and the tokens before.

    With arguments by name it is the class as it is.
    """
    if named:
        return forward(**named)

    def run(x: Any, tokens: Any) -> dict[str, Any]:
        return {"logits": forward(pixel_values=x, decoder_input_ids=tokens, use_cache=False).logits}

    return widened("torch", model, run, *inputs)


def _chosen(forward: Any, names: list[str], *inputs: Any) -> Any:
    """Return some of a model's outputs by name."""
    found = forward(*inputs)
    return {name: found[name] for name in names}
