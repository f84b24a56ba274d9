"""The options of commands whose shards other processes may write."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from porter.storage.tasks import ShardPool

_OPTIONS = (
    click.option("--workers", type=click.IntRange(1), metavar="N",
                 help="Write the shards by N processes; default: by this one."),
    click.option("--ray", "use_ray", is_flag=False, flag_value="local", metavar="[ADDRESS]",
                 help="Write the shards on Ray: a cluster, or one on this machine."),
)  # fmt: skip


def shard_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--workers` and `--ray` to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def pool_of(options: dict[str, Any]) -> ShardPool | None:
    """Remove the options from a command's options; return where the shards are written."""
    workers, address = options.pop("workers"), options.pop("use_ray")
    if address is not None:
        from porter.fleet.on_ray import RayShards

        return RayShards(None if address == "local" else address, workers)
    if workers is None:
        return None
    from porter.fleet.shards import Local

    return Local(workers)
