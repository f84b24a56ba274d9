"""What a model writes token by token: the structure of a table as HTML, a formula as LaTeX."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache

import numpy as np

from porter.checkpoints.beside import place, stated_in_program
from porter.commands.pictures.text import Text
from porter.errors import InputError
from porter.storage.input_file import read_small
from porter.tensors.blocks import Array
from porter.tensors.state_dict import Origin

FORMULA = ("fetch_name_0", "scores")
"""The outputs of a graph that writes formulas."""
TOKENIZER = "tokenizer.json"
_LARGEST = 64 << 20
_METASPACE = "\u2581"
_SPECIAL = (0, 1, 2)
"""PP-FormulaNet's start, filling and end."""
_SPANS = [f' {kind}="{count}"' for kind in ("colspan", "rowspan") for count in range(2, 21)]
STRUCTURE = (
    "sos", "<thead>", "</thead>", "<tbody>", "</tbody>", "<tr>", "</tr>", "<td", ">", "</td>",
    *_SPANS, "<td></td>", "eos",
)  # fmt: skip
"""SLANet's 50 tokens: `table_structure_dict_ch.txt` of PaddleOCR, cells without span as one."""


def table(probabilities: Array) -> Text:
    """Return the HTML of the probabilities (steps, 50) of a table's tokens, and their mean."""
    best = probabilities.argmax(-1)
    ends = np.flatnonzero(best == len(STRUCTURE) - 1)
    last = int(ends[ends > 0][0]) if (ends > 0).any() else len(best)
    kept = [step for step in range(last) if 0 < best[step] < len(STRUCTURE) - 1]
    inside = "".join(STRUCTURE[best[step]] for step in kept)
    score = float(probabilities[kept].max(-1).mean()) if kept else 0.0
    return Text(f"<table>{inside}</table>", score)


def formula(outputs: Mapping[str, Array], tokenizer: str) -> Text:
    """Return the LaTeX of `fetch_name_0` (1, steps), or the numbers without a tokenizer."""
    numbers = [int(one) for one in outputs["fetch_name_0"][0] if int(one) not in _SPECIAL]
    count = int(np.count_nonzero(outputs["fetch_name_0"][0] != 1))
    score = float(np.exp(np.asarray(outputs["scores"][0, :count], np.float64).mean()))
    if not tokenizer:
        return Text(" ".join(map(str, numbers)), score)
    return Text(_decoded(numbers, tokenizer), score)


def tokenizer_of(origin: Origin | None, given: str | None) -> str:
    """Return a tokenizer as JSON: the user's file, or that of the folder; empty if there is none.

    It is in `tokenizer.json` of a hub, or in `inference.yml` of PaddleX.
    """
    path = given or place(origin, TOKENIZER)
    if path:
        return read_small(path, _LARGEST).decode("utf-8", "replace")
    found = stated_in_program(origin, "PostProcess", "character_dict", "fast_tokenizer_file")
    return json.dumps(found) if isinstance(found, dict) else ""


def _decoded(numbers: list[int], tokenizer: str) -> str:
    """Return the text of tokens, by the vocabulary of a `tokenizer.json` of tokens of bytes."""
    try:
        body = json.loads(tokenizer)
        vocabulary = {int(number): token for token, number in body["model"]["vocab"].items()}
        special = {int(one["id"]) for one in body.get("added_tokens", ()) if one.get("special")}
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"the tokenizer is not one of tokens by number: {error!r}") from error
    tokens = [str(vocabulary.get(one, "")) for one in numbers if one not in special]
    text = "".join(tokens).replace(_METASPACE, " ")
    known = _bytes_of_characters()
    raw = b"".join(
        bytes([known[one]]) if one in known else one.encode("utf-8", "replace") for one in text
    )
    return " ".join(raw.decode("utf-8", "replace").split())


@cache
def _bytes_of_characters() -> dict[str, int]:
    """Return the byte of each character in the tokens of byte-level BPE (GPT-2).

    Printable bytes are their own characters, the others begin at U+0100; a space is `Ġ`.
    """
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(shown)]
    return {
        **{chr(byte): byte for byte in shown},
        **{chr(0x100 + index): byte for index, byte in enumerate(others)},
    }
