"""docs/manifest.schema.json: takes the manifests that porter takes, and sees a wrong value."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

import jsonschema
import pytest

from porter.fleet import manifest, row
from tests.docs.pages import ROOT

SCHEMA = json.loads((ROOT / "docs/manifest.schema.json").read_text())
PAGE = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
EXAMPLES = [
    content
    for block in re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    if "jobs" in (content := tomllib.loads(block))
]


def test_the_examples_of_the_page_are_valid() -> None:
    """Lists, patterns and variables included."""
    assert EXAMPLES
    for example in EXAMPLES:
        jsonschema.validate(example, SCHEMA)


@pytest.mark.parametrize(
    "job",
    [
        {"input": "a.pth", "num-classes": "ten"},
        {"input": "a.pth", "verify": "no"},
        {"input": "a.pth", "dtype": "fp8"},
        {"left": "a.pth", "right": 3},
        {"arch": "deit-tiny-224"},
    ],
)
def test_a_wrong_value_is_seen(job: dict[str, Any]) -> None:
    """A type, a choice, a job without files."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"jobs": [job]}, SCHEMA)


def test_every_key_is_in_the_schema() -> None:
    """Of conversions and of proofs, as `porter fleet` reads them."""
    keys = {row.spelled(key) for key in SCHEMA["$defs"]["job"]["properties"]}
    known = manifest._known({}) | manifest._known({"left": "a"})
    assert known - {"options"} == keys
