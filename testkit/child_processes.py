"""Waiting for the end of processes that are not this process's own children."""

from __future__ import annotations

import asyncio
import os

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
