"""Waiting for what a service or a server process logs."""

from __future__ import annotations

import asyncio
import logging

import pytest

_SECONDS = 60


async def until_logged(caplog: pytest.LogCaptureFixture, *words: str) -> None:
    """Wait until one of ``words`` is in the log of this process.

    Raises:
        TimeoutError: it is not there within a minute.
    """
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()

    class Signal(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            loop.call_soon_threadsafe(changed.set)

    signal = Signal()
    logging.getLogger().addHandler(signal)
    try:
        async with asyncio.timeout(_SECONDS):
            while not any(one in caplog.text for one in words):
                changed.clear()
                await changed.wait()
    finally:
        logging.getLogger().removeHandler(signal)


async def read_until(stream: asyncio.StreamReader, words: str) -> str:
    """Read lines until one contains ``words``; return that line.

    Raises:
        EOFError: the stream ended before.
        TimeoutError: there is no such line within a minute.
    """
    async with asyncio.timeout(_SECONDS):
        async for line in stream:
            if words in line.decode():
                return line.decode()
    raise EOFError(f"The process ended without a line that contains {words!r}.")
