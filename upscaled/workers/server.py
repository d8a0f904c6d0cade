"""The worker's half: reads requests, answers them; `client` describes the protocol."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from io import FileIO
from typing import Any

from upscaled.workers.launcher import die_with_parent

Message = Mapping[str, Any]
Handler = Callable[[Message, Callable[[Message], None]], Message]
"""Handles a request: takes the message and a function that sends an event, returns the reply."""


class RequestRefusedError(Exception):
    """Raised by a handler: it is sent as an error of this kind, and the worker keeps running."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


def serve(handler: Handler, *, threaded: bool = True, at_once: int = 1) -> None:
    """Answer requests from standard input until it closes; the worker's main loop.

    ``sys.argv[1]`` is the parent's process id; this process dies with it. What libraries print to
    standard output goes to standard error instead.

    Args:
        handler: does the work; with ``at_once``, in several threads at the same time.
        threaded: handle requests in threads, so that the end of standard input ends the process at
            once, even during a computation. False for a handler that forks, which needs a process
            with a single thread.
        at_once: how many requests are handled at the same time.
    """
    assert threaded or at_once == 1, "a single thread handles one request at a time"  # noqa: S101
    die_with_parent(int(sys.argv[1]))
    responder = _Responder(handler, os.fdopen(os.dup(1), "wb", buffering=0))
    os.dup2(2, 1)
    if not threaded:
        for line in sys.stdin.buffer:
            responder.answer(line)
        return
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def work() -> None:
        while True:
            responder.answer(lines.get())

    for _ in range(at_once):
        threading.Thread(target=work, name="work", daemon=True).start()
    for line in sys.stdin.buffer:
        lines.put(line)
    os._exit(0)


class _Responder:
    """Answers single requests."""

    def __init__(self, handler: Handler, channel: FileIO) -> None:
        self._handler = handler
        self._channel = channel
        self._writing = threading.Lock()

    def answer(self, line: bytes) -> None:
        """Handle the request in one line."""
        message = json.loads(line)
        number = message["number"]
        try:
            reply = self._handler(
                message["request"], lambda event: self._send(number, "event", event)
            )
        except RequestRefusedError as error:
            self._send(number, "error", {"kind": error.kind, "message": error.message})
        except BaseException:
            # A normal exit would wait for the other threads and bury this traceback under theirs.
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        else:
            self._send(number, "reply", reply)

    def _send(self, number: int, kind: str, content: Message) -> None:
        line = json.dumps({"number": number, kind: content}, separators=(",", ":")).encode()
        with self._writing:
            self._channel.write(line + b"\n")
