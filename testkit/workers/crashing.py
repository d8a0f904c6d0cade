"""A worker that crashes on every request, as a damaged network can crash the ncnn library."""

import signal
import threading

from upscaled.workers.server import Message, serve


def crash(*_: object) -> Message:
    signal.pthread_kill(threading.get_ident(), signal.SIGSEGV)  # as a memory fault would
    return {}


if __name__ == "__main__":
    serve(crash)
