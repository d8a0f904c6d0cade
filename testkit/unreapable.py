"""A process that is dead and can't be reaped by its parent, seen from outside: like state D."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import sys
from collections.abc import AsyncIterator

_SEIZE = 0x4206
"""``PTRACE_SEIZE`` of ptrace(2)."""


class NotAllowedError(Exception):
    """This user may not trace processes."""


@contextlib.asynccontextmanager
async def unreapable(pid: int) -> AsyncIterator[None]:
    """While this lasts, the parent of process ``pid`` waits in vain for its end.

    A process that is traced stays a zombie until its tracer has seen its end, and this tracer never
    looks. The one who killed it can't tell that from a process that hangs in a driver.

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
    if libc.ptrace(_SEIZE, int(sys.argv[1]), None, None) == 0:
        sys.stdout.write("seized\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
