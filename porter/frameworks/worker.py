"""The child process: `python -m porter.frameworks.worker FRAMEWORK`, started by `process`.

It answers requests one at a time and ends when its standard input closes.
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


def main(framework: str) -> None:
    """Answer requests until the input closes; a `PorterError` is an answer, too."""
    # Frameworks print to descriptor 1 from native code: replies get a separate descriptor.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    gc.disable()  # A framework's import leaves a million objects, and nothing to collect.
    try:
        commands = _commands(framework)
    except PorterError as error:
        _reply_all(requests, replies, _failure(error))
        return
    gc.freeze()
    gc.enable()
    while True:
        request: dict[str, Any] = json.loads(requests.get())
        try:
            reply = commands[request.pop("command")](**request)
        except PorterError as error:
            reply = _failure(error)
        _reply(replies, reply)


def _commands(framework: str) -> dict[str, Callable[..., dict[str, Any]]]:
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


def _reply_all(requests: queue.SimpleQueue[str], replies: IO[str], reply: dict[str, Any]) -> None:
    while True:
        requests.get()
        _reply(replies, reply)


def _failure(error: PorterError) -> dict[str, Any]:
    kind = type(error).__name__
    return {"error": {"kind": kind, "message": error.message, "path": error.path}}


if __name__ == "__main__":
    main(sys.argv[1])
