"""References to models that somebody else defines: a file, a module, or a provider's name.

    path/model.py:build            a function or class of a file
    package.module:Class           a function or class of an installed module
    timm:resnet50?num_classes=10   a model of a provider, with keyword arguments

A reference is parsed here, and called only in the child process of its framework. A file or a
module is run only when a person names it on the command line; a table may name providers only.

To add a provider: one function `(name, **options) -> model` in `porter.frameworks.providers`, or
in `published`, which imports its package when it is called, and one row in `PROVIDERS`. Another
package adds its own by an entry point of the group `porter.providers` whose name is the provider's
and whose value is a `Provider`, in a module that imports no framework.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any, NamedTuple

from porter.errors import InputError, PorterError, UsageError, listed, printable

GROUP = "porter.providers"
FRAMEWORKS = ("torch", "paddle")
_PROBE_SECONDS = 120.0


class Provider(NamedTuple):
    """A package that builds models by name."""

    framework: str
    """`torch` or `paddle`."""
    build: str
    """`package.module:function`, called as `function(name, **options)` in the child process."""


PROVIDERS = {
    "timm": Provider("torch", "porter.frameworks.providers:timm"),
    "torchvision": Provider("torch", "porter.frameworks.providers:torchvision"),
    "transformers": Provider("torch", "porter.frameworks.published.transformers:transformers"),
    "paddle.vision": Provider("paddle", "porter.frameworks.providers:paddle_vision"),
    "paddleclas": Provider("paddle", "porter.frameworks.providers:paddleclas"),
    "ppim": Provider("paddle", "porter.frameworks.providers:ppim"),
    "inference": Provider("paddle", "porter.frameworks.published.program:inference"),
    "paddlex": Provider("paddle", "porter.frameworks.published.paddlex:paddlex"),
}
"""The providers that come with porter, by the word before the colon."""


class Reference(NamedTuple):
    """A parsed reference; `framework` is empty where only its code says which it uses."""

    text: str
    place: str
    """Path of a file, name of a module, or name of a provider."""
    name: str
    """The attribute, or the provider's name of the model."""
    options: Mapping[str, Any]
    provider: Provider | None
    framework: str

    @property
    def request(self) -> dict[str, Any]:
        """The arguments of the child's command that builds the model."""
        file = self.provider is None and self.place.endswith(".py")
        return {
            "text": self.text, "place": os.path.abspath(self.place) if file else self.place,
            "name": self.name, "options": dict(self.options),
            "build": None if self.provider is None else self.provider.build,
        }  # fmt: skip


@cache
def providers() -> dict[str, Provider]:
    """Return the providers of porter and of the packages that bring some."""
    found: dict[str, Provider] = {}
    for entry in entry_points(group=GROUP):
        provider = entry.load()
        if not isinstance(provider, Provider) or provider.framework not in FRAMEWORKS:
            raise UsageError(
                f"the entry point {printable(entry.name)!r} of {GROUP} is not a Provider of"
                f" {listed(FRAMEWORKS)}"
            )
        found[entry.name] = provider
    return {**found, **PROVIDERS}


def parse(text: str, framework: str = "", *, code: bool = True) -> Reference:
    """Return a reference; `UsageError` if it is malformed.

    `framework` is that of a model whose code does not show it. Without `code`, for a reference
    that a table names, only a provider is accepted.
    """
    before, _, query = text.partition("?")
    known = providers()
    head, colon, name = before.partition(":")
    provider = known.get(head)
    if provider is None:
        head, colon, name = before.rpartition(":")
    if not (head and colon and name):
        raise UsageError(
            f"model {printable(text)!r} is malformed; write path/model.py:build,"
            f" package.module:Class or PROVIDER:NAME, with one of {listed(known)}"
        )
    if provider is None and not code:
        raise UsageError(
            f"a table may name models of providers only ({listed(known)}), not"
            f" {printable(text)!r}: give it as --left-model or --right-model"
        )
    if provider is not None and framework not in ("", provider.framework):
        raise UsageError(f"{printable(text)!r} is a model of {provider.framework}")
    if provider is None and head.endswith(".py") and not os.path.isfile(head):
        raise InputError("is not a file with the code of a model", head)
    chosen = framework if provider is None else provider.framework
    return Reference(text, head, name, _options(query, text), provider, chosen)


def _options(query: str, text: str) -> dict[str, Any]:
    """Return keyword arguments: values are JSON where they can be read as that, else texts."""
    options: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        key, equals, value = part.partition("=")
        if not key.isidentifier() or not equals:
            raise UsageError(f"model {printable(text)!r}: {printable(part)!r} is not key=value")
        try:
            options[key] = json.loads(value)
        except ValueError:
            options[key] = value
    return options


def with_framework(reference: Reference, python: Mapping[str, str] | None = None) -> Reference:
    """Return a reference whose framework is known: the first that its code imports.

    The code is run in a child process in which importing a framework ends it. `InputError` is
    raised where it imports none, or fails before.
    """
    if reference.framework:
        return reference
    request = json.dumps(reference.request)
    interpreters = dict.fromkeys([sys.executable, *(python or {}).values()])
    failures: list[PorterError] = []
    for interpreter in interpreters:
        try:
            return reference._replace(framework=_probed(interpreter, request, reference.text))
        except InputError as error:
            failures.append(error)
    raise failures[-1]


def _probed(interpreter: str, request: str, text: str) -> str:
    run = subprocess.run(
        [interpreter, "-P", "-m", "porter.frameworks.probe", request],
        capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    answer = run.stdout.strip().splitlines()
    if run.returncode == 0 and answer and answer[-1] in FRAMEWORKS:
        return answer[-1]
    lines = [line for line in run.stderr.strip().splitlines() if line.strip()]
    reason = printable(lines[-1], 200) if lines else "it imports neither torch nor paddle"
    raise InputError(f"the model cannot be loaded: {reason}", text)
