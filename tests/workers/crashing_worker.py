"""A worker that any request kills, as a damaged network can kill the ncnn library."""

import signal
import threading

from upscaled.workers.server import Message, serve


def crash(*_: object) -> Message:
    signal.pthread_kill(threading.get_ident(), signal.SIGSEGV)  # dies at once, as of a fault
    return {}


if __name__ == "__main__":
    serve(crash)
