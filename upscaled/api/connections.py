"""Connections: how many are open at once, and how long one may take over its headers."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from typing import cast

from aiohttp import web
from aiohttp.typedefs import Middleware

from upscaled.api.answers import SECURITY_HEADERS, Handler
from upscaled.api.protocol import Protocol

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
        self._open: dict[asyncio.Protocol, _Connection] = {}

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
            inner = Protocol(
                server,
                loop=loop,
                keepalive_timeout=_IDLE_SECONDS,
                access_log=cast(logging.Logger, access_log),  # None is taken, though not annotated
            )
            return _Connection(self, inner)

        return make

    def middleware(self) -> Middleware:
        """Return the middleware that takes note of requests whose headers have come."""

        @web.middleware
        async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
            connection = self._open.get(cast(asyncio.Protocol, request.protocol))
            if connection is None:  # served without `factory`, as tests do
                return await handler(request)
            connection.request_begins()
            try:
                return await handler(request)
            finally:
                connection.request_ends()

        return note

    def add(self, inner: asyncio.Protocol, connection: _Connection) -> bool:
        """Count a new connection; False if there are too many."""
        if len(self._open) >= self.most:
            return False
        self._open[inner] = connection
        return True

    def remove(self, inner: asyncio.Protocol) -> bool:
        """Count a connection no longer; False if it never was."""
        return self._open.pop(inner, None) is not None


class _Connection(asyncio.Protocol):
    """Stands between a connection and the web server's protocol for it."""

    def __init__(self, all_: Connections, inner: asyncio.Protocol) -> None:
        self._all = all_
        self._inner = inner
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._refused = False
        self._busy = False
        self._heard = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._all.add(self._inner, self):
            self._inner.connection_made(transport)
            self._wait_for_headers()
            return
        self._refused = True
        self._all.refused += 1
        if self._all.refused > _REFUSED_AT_ONCE:
            self._transport.abort()
            return
        sentence = "The server has as many connections open as it may; try again in a second."
        self._part_with(503, "too_many_connections", sentence, {"Retry-After": "1"})

    def _wait_for_headers(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._all.header_seconds, self._too_slow)

    def _too_slow(self) -> None:
        self._timer = None
        if self._transport is None or self._transport.is_closing():
            return
        if not self._heard:
            self._transport.close()  # nothing was asked, so nothing is answered
            return
        sentence = f"The request's headers did not come within {self._all.header_seconds:g} s."
        self._part_with(408, "request_timeout", sentence, {})

    def _part_with(self, status: int, code: str, sentence: str, headers: Mapping[str, str]) -> None:
        """Answer, and close a little later: closed at once, the answer might never arrive."""
        assert self._transport is not None  # noqa: S101 - called while connected
        self._refused = True
        self._transport.write(_raw_answer(status, code, sentence, headers))
        if self._transport.can_write_eof():
            self._transport.write_eof()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_REFUSED_SECONDS, self._transport.abort)

    def request_begins(self) -> None:
        """Take note that a request's headers have come."""
        self._busy = True
        self._stop_timer()

    def request_ends(self) -> None:
        """Take note that a request was answered; the next may be long in coming."""
        self._busy = self._heard = False

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._heard = True
        if not self._busy and self._timer is None:
            self._wait_for_headers()
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return None if self._refused else self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        self._stop_timer()
        if self._all.remove(self._inner):
            self._inner.connection_lost(error)
        else:
            self._all.refused -= 1
