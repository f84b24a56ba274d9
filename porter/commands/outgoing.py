"""Commands whose output may be at an address."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields, replace
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec, TypeVar, cast

from porter.remote.address import address, is_url, local_path
from porter.storage.atomic_output import Written
from porter.storage.tasks import ShardPool

P = ParamSpec("P")


R = TypeVar("R")


def to_addresses(command: Callable[P, R]) -> Callable[P, R]:
    """Let a command's `output` be an address: it is written here, then sent.

    The command returns a dataclass with `written`, and has the parameters `force` and `progress`.
    """
    parameters = signature(command)

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = parameters.bind_partial(*args, **kwargs)
        output = bound.arguments.get("output")
        if output is None or not is_url(output):
            return command(*args, **kwargs)
        if address(os.fspath(output)).scheme == "file":
            bound.arguments["output"] = local_path(address(os.fspath(output)))
            return command(*bound.args, **bound.kwargs)
        from porter.remote.upload import outgoing

        with outgoing(os.fspath(output), bool(bound.arguments.get("force"))) as upload:
            bound.arguments["output"] = upload.path
            result: Any = command(*bound.args, **bound.kwargs)
            written: Written | None = result.written
            if written is None:  # A dry run.
                return cast("R", _renamed(result, output=upload.shown))
            sent = upload.send(written.files, bound.arguments.get("progress"))
        record = _next(sent, written.record)
        written = replace(written, path=upload.shown, files=sent, record=record)
        return cast("R", _renamed(result, output=upload.shown, written=written))

    return run


def in_shards(command: Callable[P, R]) -> Callable[P, R]:
    """Tell the pool of a command's shards, if it is given one, what its workers have to call."""
    parameters = signature(command)

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        pool = cast("ShardPool | None", kwargs.get("pool"))
        if pool is not None:
            bound = parameters.bind(*args, **kwargs).arguments
            options = bound.pop("options", {})
            pool.begin(command.__name__, {**bound, **options})
        return command(*args, **kwargs)

    return run


def _renamed(result: Any, **changes: object) -> Any:
    """Return a result with those of the changes that it has a field for."""
    known = {field.name for field in fields(result)}
    return replace(result, **{name: value for name, value in changes.items() if name in known})


def _next(sent: tuple[str, ...], record: str) -> str:
    """Return the address of the record."""
    name = os.path.basename(record)
    return next((url for url in sent if name and url.endswith(f"/{name}")), "")
