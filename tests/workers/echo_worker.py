"""A resident worker for tests: does what a request asks it to, good or bad."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from upscaled.workers.server import Message, RefusedError, serve


def wait_for_ever() -> NoReturn:
    """Do nothing until killed."""
    while True:
        signal.pause()


def handle(message: Message, send: Callable[[Message], None]) -> Message:
    """Carry out the request's ``do``."""
    match message.get("do"):
        case "refuse":
            raise RefusedError("wrong", "not like this")
        case "die":
            sys.stderr.write("chatter\nthe very last words\n")
            sys.stderr.flush()
            os._exit(3)
        case "crash":
            signal.pthread_kill(
                threading.get_ident(), signal.SIGSEGV
            )  # dies at once, as of a fault
        case "raise":
            raise ZeroDivisionError("nothing to divide by")
        case "events":
            for number in range(3):
                send({"number": number})
        case "hang":
            send({"hanging": True})
            wait_for_ever()
        case "wait for":
            send({"waiting": True})
            while not Path(message["file"]).exists():
                time.sleep(0.01)
        case "print":
            print("this is no answer", flush=True)  # noqa: T201
            os.write(1, b"nor is this\n")
        case "flood":
            for _ in range(2000):
                os.write(2, b"chatter" * 500)
        case "huge":
            return {"text": "x" * int(message["length"])}
    return {"pid": os.getpid(), "echo": message.get("text", "")}


if __name__ == "__main__":
    serve(handle, at_once=int(sys.argv[2]) if len(sys.argv) > 2 else 1)
