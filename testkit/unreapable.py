"""A process that is killed and does not end, seen from outside: like state D."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import sys
from collections.abc import AsyncIterator

_SEIZE = 0x4206
"""``PTRACE_SEIZE`` of ptrace(2)."""
_TRACE_EXIT = 0x40
"""``PTRACE_O_TRACEEXIT`` of ptrace(2)."""


class NotAllowedError(Exception):
    """This user may not trace processes."""


@contextlib.asynccontextmanager
async def unreapable(pid: int) -> AsyncIterator[None]:
    """While this lasts, process ``pid`` does not end and its parent waits in vain.

    A process whose exit is traced stops just before its end, also when it is killed, and waits for
    its tracer to let it go on. This tracer never does. Nothing tells it from a process that hangs
    in a driver: it holds all it had, further signals change nothing, and it is no zombie, of which
    a pidfd (CPython 3.12 waits for that) would tell.

    Raises:
        NotAllowedError: this user may not trace it.
    """
    tracer = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "testkit.unreapable",
        str(pid),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert tracer.stdin is not None
    assert tracer.stdout is not None
    try:
        if await tracer.stdout.readline() != b"seized\n":
            raise NotAllowedError
        yield
    finally:
        tracer.stdin.close()
        await tracer.wait()


def main() -> None:
    """Trace the process of the first argument until standard input ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    if libc.ptrace(_SEIZE, int(sys.argv[1]), None, _TRACE_EXIT) == 0:
        sys.stdout.write("seized\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
