"""A bad line: a relay between a client and a server on this machine, which holds or breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_PIECE = 64 << 10


class Relay:
    """Passes connections on to a port, and counts what clients send.

    Args:
        to: the port of the server.
    """

    def __init__(self, to: int) -> None:
        self._to = to
        self.port = 0
        self.passed = 0
        """Bytes of clients that were passed on."""
        self.most: int | None = None
        """Passes on only so many; None: all."""
        self.cuts = False
        """At `most`, break all connections with a reset, and pass on everything afterwards; else
        hold them."""
        self.reached = asyncio.Event()
        self.down = False
        """Take no new connections."""
        self._go = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self.down:
            writer.transport.abort()
            return
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, inner_writer}
        self._writers |= ends
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._there(reader, inner_writer), name="relay there")
                both.create_task(_pumped(inner_reader, writer), name="relay back")
        except* (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()

    async def _there(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(_PIECE):
            if self.most is not None and self.passed + len(piece) > self.most:
                self.reached.set()
                if self.cuts:
                    self.most = None
                    self.abort()
                    raise ConnectionResetError
                await self._go.wait()
            self.passed += len(piece)
            writer.write(piece)
            await writer.drain()
        writer.write_eof()

    def break_down(self) -> None:
        """Break all connections, and take no new ones until `go_on`."""
        self.down = True
        self.abort()

    def abort(self) -> None:
        """Break all connections."""
        for end in list(self._writers):
            end.transport.abort()

    def go_on(self) -> None:
        """Pass on everything from now on."""
        self.most, self.down = None, False
        self._go.set()

    async def close(self) -> None:
        """Break all connections, and wait for their ends."""
        self.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _pumped(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(_PIECE):
        writer.write(piece)
        await writer.drain()
    writer.write_eof()


@asynccontextmanager
async def relay(to: int) -> AsyncIterator[Relay]:
    """Run a relay to a port of this machine."""
    running = Relay(to)
    server = await asyncio.start_server(running.connected, "127.0.0.1", 0)
    running.port = server.sockets[0].getsockname()[1]
    try:
        yield running
    finally:
        server.close()
        await running.close()
