"""Downloads that break off while the proxy in between has taken in the whole result."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testkit.running import Server

_SIZE = 2_600_000
"""Of a result that every proxy takes in at once (measured)."""
_SETTLED = (
    "download broken off",
    "job's result downloaded by a proxy",
    "job's result downloaded and deleted",
)


@contextmanager
def server_said(*messages: str) -> Iterator[asyncio.Event]:
    """Note when the server logs one of ``messages``."""
    loop, said = asyncio.get_running_loop(), asyncio.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() in messages:
                loop.call_soon_threadsafe(said.set)

    logger, listener = logging.getLogger("upscaled"), Listener()
    level = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    try:
        yield said
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)


async def read_a_little(url: str) -> bytes:
    """Begin a download, read its beginning, break the connection off; return what came."""
    host, path = re.fullmatch("http://([^/]+)(/.*)", url).groups()  # type: ignore[union-attr]
    reader, writer = await asyncio.open_connection(*host.split(":"), limit=4096)
    try:
        connection: socket.socket = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head.splitlines()[0], head
        got = await reader.readexactly(20_000)
        await asyncio.sleep(0.5)  # the caller is slow: in this time the proxy takes what it can
        return got
    finally:
        writer.transport.abort()


async def broken_off(server: Server, job_id: str, url: str, target: Path) -> bytes:
    """Break a download of a job's result off; its beginning goes into ``target``.

    Returns:
        The whole content, which replaces the result of the job.
    """
    content = b"".join(hashlib.sha256(n.to_bytes(4)).digest() for n in range(_SIZE // 32))
    await asyncio.to_thread(server.result_file(job_id).write_bytes, content)
    with server_said(*_SETTLED) as settled:
        await asyncio.to_thread(target.write_bytes, await read_a_little(url))
        async with asyncio.timeout(60):
            await settled.wait()
    return content
