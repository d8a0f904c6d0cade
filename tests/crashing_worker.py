"""A worker that any request kills, as a damaged network can kill the ncnn library."""

import os
import signal

from upscaled.resident import Message, serve


def crash(*_: object) -> Message:
    os.kill(os.getpid(), signal.SIGSEGV)
    return {}


if __name__ == "__main__":
    serve(crash)
