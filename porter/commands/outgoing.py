"""Commands whose output may be at an address."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields, replace
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec, TypeVar, cast

from porter.errors import UsageError
from porter.remote.address import address, is_url, local_path
from porter.storage.atomic_output import Written
from porter.storage.tasks import ShardPool

P = ParamSpec("P")


R = TypeVar("R")


def to_addresses(command: Callable[P, R]) -> Callable[P, R]:
    """Let a command's `output` be an address: it is written here, then sent.

    An output in shards is sent by whoever writes them, each when it is finished. The command
    returns a dataclass with `written`, and has the parameters `force`, `progress` and `options`.
    """
    parameters = signature(command)

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = parameters.bind_partial(*args, **kwargs)
        given = bound.arguments
        output = given.get("output")
        if output is None or not is_url(output):
            return command(*args, **kwargs)
        if address(os.fspath(output)).scheme == "file":
            given["output"] = local_path(address(os.fspath(output)))
            return command(*bound.args, **bound.kwargs)
        from porter.remote.upload import outgoing

        pool = cast("ShardPool | None", given.get("options", {}).get("pool"))
        _refuse_memory(os.fspath(output), pool)
        asks, force = pool is None or not pool.is_worker, bool(given.get("force"))
        writes = asks and not given.get("dry_run")
        with outgoing(os.fspath(output), force, writes=writes) as upload:
            if asks:
                upload.refuse_existing()
            given["output"] = upload.path
            if given.get("max_shard_size"):
                given["options"] = {**given.get("options", {}), "places": upload.place}
            result: Any = command(*bound.args, **bound.kwargs)
            written: Written | None = result.written
            if written is None:  # A dry run.
                return cast("R", _renamed(result, output=upload.shown))
            if is_url(written.path):  # Its shards are there.
                return cast("R", result)
            sent = upload.send(written.files, given.get("progress"))
        record = _next(sent, written.record)
        written = replace(written, path=upload.shown, files=sent, record=record)
        return cast("R", _renamed(result, output=upload.shown, written=written))

    return run


def _refuse_memory(output: str, pool: ShardPool | None) -> None:
    """Raise `UsageError` for an address that other processes do not see."""
    if pool is not None and address(output).scheme == "memory":
        raise UsageError("memory:// is of one process: leave --workers and --ray out", output)


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
