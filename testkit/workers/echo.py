"""A worker for tests: it answers, fails, hangs or crashes as the request asks."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from testkit.gate import wait_at_gate
from upscaled.workers.server import Message, RequestRefusedError, serve


def wait_forever() -> NoReturn:
    """Do nothing until killed."""
    while True:
        signal.pause()


def handle(message: Message, send: Callable[[Message], None]) -> Message:
    """Do what the request's ``do`` says; by default, echo its ``text``."""
    match message.get("do"):
        case "refuse":
            raise RequestRefusedError("wrong", "not like this")
        case "die":
            sys.stderr.write("chatter\nthe very last words\n")
            sys.stderr.flush()
            os._exit(3)
        case "crash":
            signal.pthread_kill(threading.get_ident(), signal.SIGSEGV)  # as a memory fault would
        case "raise":
            raise ZeroDivisionError("nothing to divide by")
        case "events":
            for number in range(3):
                send({"number": number})
        case "hang":
            send({"hanging": True})
            wait_forever()
        case "wait for":
            send({"waiting": True})
            wait_at_gate(message["gate"])
        case "print":
            print("this is not an answer", flush=True)  # noqa: T201
            os.write(1, b"and neither is this\n")
        case "flood":
            for _ in range(2000):
                os.write(2, b"chatter" * 500)
        case "huge":
            return {"text": "x" * int(message["length"])}
    return {"pid": os.getpid(), "echo": message.get("text", "")}


if __name__ == "__main__":
    serve(handle, at_once=int(sys.argv[2]) if len(sys.argv) > 2 else 1)
