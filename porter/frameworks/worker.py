"""The child process: `python -m porter.frameworks.worker FRAMEWORK`, started by `process`.

It answers requests one at a time and ends when its standard input closes. With a channel as second
argument it is a server, whose children do so (`fork_server`).
"""

from __future__ import annotations

import gc
import json
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import IO, Any

from porter.errors import PorterError
from porter.frameworks import session
from porter.frameworks.runner import runner

Commands = dict[str, Callable[..., dict[str, Any]]]


def main(framework: str, channel: str = "", *anew: str) -> None:
    """Answer requests until the input closes; a `PorterError` is an answer, too."""
    commands: Commands | PorterError | None = None
    if channel:
        from porter.frameworks.fork_server import children

        commands = children(int(channel), framework, lambda: _loaded(framework), anew=bool(anew))
    # Frameworks print to descriptor 1 from native code: replies get a separate descriptor.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    commands = commands or _loaded(framework)
    while True:
        request: dict[str, Any] = json.loads(requests.get())
        try:
            if isinstance(commands, PorterError):
                raise commands
            reply = commands[request.pop("command")](**request)
        except PorterError as error:
            reply = _failure(error)
        _reply(replies, reply)


def _loaded(framework: str) -> Commands | PorterError:
    """Return what a framework can be asked for, or the answer to every request without it."""
    gc.disable()  # A framework's import leaves a million objects, and nothing to collect.
    try:
        return _commands(framework)
    except PorterError as error:
        return error
    finally:
        gc.freeze()
        gc.enable()


def _commands(framework: str) -> Commands:
    if framework == "onnx-tools":
        from porter.frameworks.onnx import tools

        return tools.commands()
    if framework == "onnxruntime":
        from porter.frameworks.onnx import session as onnx_session

        return onnx_session.commands()
    from porter.frameworks.live import session as live

    return {**session.commands(session.Session(runner(framework))), **live.commands(framework)}


def _listen(requests: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)  # the parent is gone, or done


def _reply(replies: IO[str], reply: dict[str, Any]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


def _failure(error: PorterError) -> dict[str, Any]:
    kind = type(error).__name__
    return {"error": {"kind": kind, "message": error.message, "path": error.path}}


if __name__ == "__main__":
    main(*sys.argv[1:])
