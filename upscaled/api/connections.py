"""Connections: how many are open at once, and how long one may take over its headers."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, cast

from aiohttp import web

from upscaled.api.http_protocol import Protocol
from upscaled.api.responses import SECURITY_HEADERS

_IDLE_SECONDS = 75.0
"""A connection that is kept for further requests ends when none comes for so long."""
_REFUSED_SECONDS = 2.0
"""A refused caller gets so long to read why."""
_REFUSED_AT_ONCE = 64
"""Refused callers that are told why; beyond these they are only cut off."""
_REASONS = {408: "Request Timeout", 503: "Service Unavailable"}


def _raw_answer(status: int, code: str, sentence: str, headers: Mapping[str, str]) -> bytes:
    """Return an error in the one shape all errors have, for a request that is none yet."""
    content = {"success": False, "error": sentence, "code": code}
    body = json.dumps(content, separators=(",", ":")).encode()
    lines = {
        "Content-Type": "application/json; charset=utf-8",
        "Content-Length": str(len(body)),
        "Connection": "close",
        "Cache-Control": "no-store",
        **SECURITY_HEADERS,
        **headers,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} {_REASONS[status]}\r\n{head}\r\n".encode() + body


class Connections:
    """All open connections of the server.

    Args:
        most: how many may be open at once.
        header_seconds: how long a request's headers may take.
    """

    def __init__(self, most: int, header_seconds: float) -> None:
        self.most = most
        self.header_seconds = header_seconds
        self.refused = 0
        self._open: set[Connection] = set()

    def __len__(self) -> int:
        return len(self._open)

    def factory(
        self,
        server: web.Server,
        *,
        access_log: logging.Logger | None = None,
    ) -> Callable[[], asyncio.Protocol]:
        """Return what makes the protocols of new connections.

        Args:
            server: the web server that the application runs in.
            access_log: where each request is logged; nowhere if None.
        """
        loop = asyncio.get_running_loop()

        def make() -> asyncio.Protocol:
            return Connection(
                self,
                server,
                loop=loop,
                keepalive_timeout=_IDLE_SECONDS,
                auto_decompress=False,  # compressed requests are refused, see `upload.check_head`
                access_log=cast(logging.Logger, access_log),  # None is taken, though not annotated
            )

        return make

    def add(self, connection: Connection) -> bool:
        """Count a new connection; False if there are too many."""
        if len(self._open) >= self.most:
            return False
        self._open.add(connection)
        return True

    def end_waits(self) -> None:
        """Have every request that waits for something answered now."""
        for connection in self._open:
            connection.end_wait()

    def abort(self) -> None:
        """Cut every connection off, whatever it is sending or receiving."""
        for connection in list(self._open):
            if connection.transport is not None:
                connection.transport.abort()

    def remove(self, connection: Connection) -> bool:
        """Count a connection no longer; False if it never was."""
        if connection not in self._open:
            return False
        self._open.remove(connection)
        return True


class Connection(Protocol):
    """One connection, from its beginning to its end.

    Until a request's headers have come a clock runs. It is one timer a connection that is looked
    at when it rings, not one a request: most requests come whole and at once.
    """

    __slots__ = ("_all", "_busy", "_due", "_heard", "_refused", "_timer", "_waiting")

    def __init__(self, all_: Connections, server: web.Server, **options: Any) -> None:
        super().__init__(server, **options)
        self._all = all_
        self._timer: asyncio.TimerHandle | None = None
        self._due: float | None = None  # of the loop's clock: when the headers must be there
        self._refused = False
        self._busy = False
        self._heard = False
        self._waiting: asyncio.Task[Any] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a new connection, or tell the caller that there are too many."""
        if self._all.add(self):
            super().connection_made(transport)
            self._wait_for_headers()
            return
        self._refused = True
        self._all.refused += 1
        transport = cast(asyncio.Transport, transport)
        if self._all.refused > _REFUSED_AT_ONCE:
            transport.abort()
            return
        sentence = "The server has as many connections open as it may; try again in a second."
        self._part_with(transport, 503, "too_many_connections", sentence, {"Retry-After": "1"})

    def _wait_for_headers(self) -> None:
        self._due = self._loop.time() + self._all.header_seconds
        if self._timer is None:
            self._timer = self._loop.call_at(self._due, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._due is None:
            return  # they came; the next request sets the timer again
        if self._loop.time() < self._due:  # those of a later request
            self._timer = self._loop.call_at(self._due, self._ring)
            return
        if self.transport is None or self.transport.is_closing():
            return
        if not self._heard:
            self.transport.close()  # nothing was asked, so nothing is answered
            return
        sentence = f"The request's headers did not come within {self._all.header_seconds:g} s."
        self._part_with(self.transport, 408, "request_timeout", sentence, {})

    def _part_with(
        self,
        transport: asyncio.Transport,
        status: int,
        code: str,
        sentence: str,
        headers: Mapping[str, str],
    ) -> None:
        """Answer, and close a little later: closed at once, the answer might never arrive."""
        self._refused = True
        transport.write(_raw_answer(status, code, sentence, headers))
        if transport.can_write_eof():
            transport.write_eof()
        self._timer = self._loop.call_later(_REFUSED_SECONDS, transport.abort)

    def request_begins(self) -> None:
        """Take note that a request's headers have come."""
        self._busy = True
        self._due = None

    def request_ends(self) -> None:
        """Take note that a request was answered; the next may be long in coming."""
        self._busy = self._heard = False

    async def wait(self, awaited: asyncio.Task[Any], seconds: float) -> None:
        """Wait for a task, ``seconds`` at most, while anybody is there to be told of its end.

        The task is at its end when this returns, cancelled if need be.
        """
        self._waiting = awaited
        try:
            await asyncio.wait({awaited}, timeout=seconds)
        finally:
            self._waiting = None
            awaited.cancel()
            await asyncio.wait({awaited})
        if not awaited.cancelled():
            awaited.exception()  # the caller looks for itself what came of it

    def end_wait(self) -> None:
        """End what the request of this connection waits for, if it does."""
        if self._waiting is not None:
            self._waiting.cancel()

    def data_received(self, data: bytes) -> None:
        """Take what has come, unless the caller was refused."""
        if self._refused:
            return
        self._heard = True
        if not self._busy and self._due is None:
            self._wait_for_headers()
        super().data_received(data)

    def eof_received(self) -> None:
        """Take note that nothing more will come."""
        if not self._refused:
            super().eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let go of the connection."""
        self.end_wait()
        self._due = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._all.remove(self):
            super().connection_lost(exc)
        else:
            self._all.refused -= 1
