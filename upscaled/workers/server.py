"""The worker's half of a resident worker: reads requests, answers them; see `resident`."""

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
"""The worker's side of a request: gets the message and an event sender, returns the reply."""


class RefusedError(Exception):
    """Raised by a worker's handler: answered as an error of this kind, the worker lives on."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


def serve(handler: Handler, *, threaded: bool = True, at_once: int = 1) -> None:
    """Answer requests from standard input until it closes; the worker's main loop.

    ``sys.argv[1]`` is the parent's process id, with which this process dies. Whatever libraries
    print to standard output goes to standard error instead.

    Args:
        handler: does the work; by several threads at the same time, with ``at_once``.
        threaded: the end of standard input ends the process at once, even in the middle of a
            computation. Not so, for a handler that forks: then the process has one thread.
        at_once: how many requests are worked on at the same time, by threads.
    """
    assert threaded or at_once == 1, "one thread does one thing at a time"  # noqa: S101
    die_with_parent(int(sys.argv[1]))
    desk = _Desk(handler, os.fdopen(os.dup(1), "wb", buffering=0))
    os.dup2(2, 1)
    if not threaded:
        for line in sys.stdin.buffer:
            desk.answer(line)
        return
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def work() -> None:
        while True:
            desk.answer(lines.get())

    for _ in range(at_once):
        threading.Thread(target=work, name="work", daemon=True).start()
    for line in sys.stdin.buffer:
        lines.put(line)
    os._exit(0)


class _Desk:
    """Answers single requests."""

    def __init__(self, handler: Handler, channel: FileIO) -> None:
        self._handler = handler
        self._channel = channel
        self._writing = threading.Lock()

    def answer(self, line: bytes) -> None:
        """Do what one line asks for."""
        asked = json.loads(line)
        number = asked["number"]
        try:
            reply = self._handler(
                asked["request"], lambda event: self._send(number, "event", event)
            )
        except RefusedError as error:
            self._send(number, "error", {"kind": error.kind, "message": error.message})
        except BaseException:
            # An orderly exit would stumble over the other threads, and bury the traceback under
            # complaints about that.
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        else:
            self._send(number, "reply", reply)

    def _send(self, number: int, kind: str, content: Message) -> None:
        line = json.dumps({"number": number, kind: content}, separators=(",", ":")).encode()
        with self._writing:
            self._channel.write(line + b"\n")
