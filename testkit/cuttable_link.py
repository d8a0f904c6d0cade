"""A TCP relay that can lose everything it is given, as a cut network does."""

from __future__ import annotations

import asyncio
import contextlib

_PIECE = 1 << 16


class CuttableLink:
    """Passes connections on to a port of this machine, until it is cut.

    While it is cut, neither end notices: connections stay open, new ones are accepted, and no
    bytes arrive.

    Args:
        port: where connections go.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._whole = asyncio.Event()
        self._whole.set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Pass nothing on from now on."""
        self._whole.clear()

    def heal(self) -> None:
        """Pass on what has come meanwhile, and everything after that."""
        self._whole.set()

    async def close(self) -> None:
        """End all connections."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            # Cancelled by `close`; a connection's task that is cancelled is logged as a fault.
            with contextlib.suppress(asyncio.CancelledError):
                await self._pass_on(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._whole.wait()
        with contextlib.suppress(OSError):
            there, to = await asyncio.open_connection("127.0.0.1", self._to)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._copy(reader, to))
                    both.create_task(self._copy(there, writer))
            finally:
                to.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(_PIECE):
                await self._whole.wait()
                writer.write(piece)
                await writer.drain()
        writer.close()
