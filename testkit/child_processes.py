"""Child processes that do not outlive their test, and waiting for the end of other processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import IO

import psutil

_END_SECONDS = 30


def is_running(pid: int) -> bool:
    """Tell whether a process exists and is no zombie."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def wait_for_exit(pid: int) -> None:
    """Wait until a process ended; a zombie has ended.

    Raises:
        TimeoutError: it still runs after 30 seconds.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        async with asyncio.timeout(_END_SECONDS):
            await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


@contextlib.asynccontextmanager
async def child_process(
    *command: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program for the length of the block; afterwards it is killed and reaped."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env=env, stdout=stdout, stderr=stderr
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()  # closes its pipes too


def gone(pid: int | None) -> bool:
    return pid is not None and not psutil.pid_exists(pid)
