"""Connections: how many are open at once, and how slow their callers may be."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import struct
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from aiohttp import web

from upscaled.api.http_protocol import Protocol
from upscaled.api.responses import SECURITY_HEADERS
from upscaled.errors import ShuttingDownError

log = logging.getLogger(__name__)

T = TypeVar("T")

_IDLE_SECONDS = 75.0
"""A connection without a request is closed after this time."""
_REPLACED_AFTER_SECONDS = 5.0
"""When there are too many connections, a new one replaces one that did nothing for this time."""
_PROGRESS_BYTES = 256 * 1024
"""Bytes of a response that a caller must read within ``server.send_timeout_seconds``."""
_PROGRESS_CHECK_SECONDS = 1.0
_REFUSED_SECONDS = 2.0
"""Time for a refused caller to read why."""
_REFUSED_AT_ONCE = 64
"""Refused callers that get an answer at a time; further ones are only disconnected."""
_REASONS = {408: "Request Timeout", 503: "Service Unavailable"}


def _raw_error(status: int, code: str, sentence: str, headers: Mapping[str, str]) -> bytes:
    """Return the bytes of an error response, for a connection without a request."""
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
        header_seconds: time for a request's headers to come.
        send_seconds: time for a caller to take `_PROGRESS_BYTES` of a response.
    """

    def __init__(self, most: int, header_seconds: float, send_seconds: float) -> None:
        self.most = most
        self.header_seconds = header_seconds
        self.send_seconds = send_seconds
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
        """Return the factory of protocols for new connections.

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
        """Count a new connection; False if there are too many.

        If there are, a connection is closed that is idle or whose caller reads nothing of its
        response.
        """
        if len(self._open) >= self.most:
            for other in self._open:
                if other.is_replaceable():
                    break
            else:
                return False
            self._open.remove(other)
            other.abort()
        self._open.add(connection)
        return True

    def end_waits(self) -> None:
        """Let all waiting requests be answered now."""
        for connection in self._open:
            connection.end_wait()

    def abort(self) -> None:
        """Cut every connection off, whatever it is sending or receiving."""
        for connection in list(self._open):
            connection.abort()

    def remove(self, connection: Connection) -> None:
        """Count a connection no longer."""
        self._open.discard(connection)


@dataclass(slots=True)
class _Sending:
    """How a response goes out that the network does not take at once. Times are the loop's."""

    unsent: int
    """Bytes that wait to be sent."""
    moved_at: float
    """When the network last took any."""
    taken: int
    """Bytes that it took since ``deadline`` was set."""
    deadline: float
    """When it must have taken `_PROGRESS_BYTES`."""


class Connection(Protocol):
    """One connection, from its beginning to its end.

    Two timers run: until a request's headers have come, and while the network does not take a
    response. The first is one timer for each connection, not for each request: most requests
    come whole and at once.
    """

    __slots__ = (
        "_all",
        "_busy",
        "_header_deadline",
        "_header_timer",
        "_heard",
        "_idle_since",
        "_refused",
        "_send_timer",
        "_sending",
        "_served",
        "_waiting",
    )

    def __init__(self, all_: Connections, server: web.Server, **options: Any) -> None:
        super().__init__(server, **options)
        self._all = all_
        self._served = False
        self._refused = False
        self._header_timer: asyncio.TimerHandle | None = None
        self._header_deadline: float | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._sending: _Sending | None = None
        self._busy = False
        self._heard = False
        self._idle_since: float | None = None
        self._waiting: asyncio.Task[Any] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a new connection, or tell the caller that there are too many."""
        transport = cast(asyncio.Transport, transport)
        if self._all.add(self):
            self._served = True
            # `pause_writing` is called as soon as anything waits to be sent.
            transport.set_write_buffer_limits(high=0)
            super().connection_made(transport)
            self._expect_headers()
            return
        self._all.refused += 1
        if self._all.refused > _REFUSED_AT_ONCE:
            self._refused = True
            transport.abort()
            return
        sentence = "The server has as many connections open as it may; try again in a second."
        self._refuse(transport, 503, "too_many_connections", sentence, {"Retry-After": "1"})

    def _expect_headers(self) -> None:
        self._header_deadline = self._loop.time() + self._all.header_seconds
        if self._header_timer is None:
            self._header_timer = self._loop.call_at(self._header_deadline, self._check_headers)

    def _check_headers(self) -> None:
        self._header_timer = None
        if self._header_deadline is None:
            return  # they came; the next request sets the timer again
        if self._loop.time() < self._header_deadline:  # those of a later request
            self._header_timer = self._loop.call_at(self._header_deadline, self._check_headers)
            return
        if self.transport is None or self.transport.is_closing():
            return
        if not self._heard:
            self.transport.close()  # nothing was asked, so nothing is answered
            return
        sentence = f"The request's headers did not come within {self._all.header_seconds:g} s."
        self._refuse(self.transport, 408, "request_timeout", sentence, {})

    def _refuse(
        self,
        transport: asyncio.Transport,
        status: int,
        code: str,
        sentence: str,
        headers: Mapping[str, str],
    ) -> None:
        """Answer, and close a little later: closed at once, the response might never arrive."""
        self._refused = True
        transport.write(_raw_error(status, code, sentence, headers))
        if transport.can_write_eof():
            transport.write_eof()
        self._header_timer = self._loop.call_later(_REFUSED_SECONDS, transport.abort)

    def request_begins(self) -> None:
        """Note that a request's headers have come."""
        self._busy = True
        self._header_deadline = None

    def request_ends(self) -> None:
        """Record that a request was answered. The next one may come much later."""
        self._busy = self._heard = False
        self._idle_since = self._loop.time()

    def is_replaceable(self) -> bool:
        """Tell whether the connection has done nothing for `_REPLACED_AFTER_SECONDS`."""
        before = self._loop.time() - _REPLACED_AFTER_SECONDS
        if self._sending is not None:
            return self._sending.moved_at <= before
        idle = not self._busy and not self._heard and self._idle_since is not None
        return idle and cast(float, self._idle_since) <= before

    def abort(self) -> None:
        """End the connection at once. What the caller has not received yet is dropped."""
        if self.transport is not None:
            # Without this the system goes on sending what it holds, to a caller who does not read.
            reset = struct.pack("ii", 1, 0)
            self.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, reset
            )
            self.transport.abort()

    async def wait(self, awaited: asyncio.Task[Any], seconds: float | None) -> None:
        """Wait for a task while the caller is connected; None: however long that is.

        The task has ended when this returns, by cancellation if need be.
        """
        self._waiting = awaited
        try:
            if self.transport is not None and not self.transport.is_closing():
                await asyncio.wait({awaited}, timeout=seconds)
        finally:
            self._waiting = None
            awaited.cancel()
            await asyncio.wait({awaited})
        if not awaited.cancelled():
            awaited.exception()  # the caller looks at the result itself

    def end_wait(self) -> None:
        """End what the request of this connection waits for, if it waits."""
        if self._waiting is not None:
            self._waiting.cancel()

    def pause_writing(self) -> None:
        """Start the clock of a response that the network does not take at once."""
        super().pause_writing()
        if self.transport is None:
            return
        now = self._loop.time()
        unsent = self.transport.get_write_buffer_size()
        self._sending = _Sending(unsent, now, 0, now + self._all.send_seconds)
        self._check_later()

    def resume_writing(self) -> None:
        """Stop that clock: everything was taken."""
        super().resume_writing()
        self._stop_sending()

    def _check_later(self) -> None:
        seconds = min(_PROGRESS_CHECK_SECONDS, self._all.send_seconds)
        self._send_timer = self._loop.call_later(seconds, self._check_progress)

    def _check_progress(self) -> None:
        if self.transport is None or self._sending is None:
            return
        now, sending = self._loop.time(), self._sending
        unsent = self.transport.get_write_buffer_size()
        if unsent < sending.unsent:
            sending.moved_at = now
            sending.taken += sending.unsent - unsent
        sending.unsent = unsent
        if sending.taken >= _PROGRESS_BYTES:
            sending.taken = 0
            sending.deadline = now + self._all.send_seconds
        elif now >= sending.deadline:
            log.info("connection ended: its caller reads too slowly", extra={"unsent": unsent})
            self.abort()
            return
        self._check_later()

    def _stop_sending(self) -> None:
        self._sending = None
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def data_received(self, data: bytes) -> None:
        """Take received bytes, unless the caller was refused."""
        if self._refused:
            return
        self._heard = True
        if not self._busy and self._header_deadline is None:
            self._expect_headers()
        super().data_received(data)

    def eof_received(self) -> None:
        """Record that the caller has closed the connection, so nothing more will come."""
        if self._refused:
            return
        super().eof_received()
        # The transport sends what it has and closes; whoever waits to send more need not wait.
        waiter, self._drain_waiter = self._drain_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(ConnectionResetError("the caller closed the connection"))

    def connection_lost(self, exc: BaseException | None) -> None:
        """Release what the connection holds."""
        self.end_wait()
        self._header_deadline = None
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
        if exc is None and self._sending is not None:
            exc = ConnectionAbortedError("the connection ended before everything was sent")
        self._stop_sending()
        self._all.remove(self)
        if self._served:
            super().connection_lost(exc)
        else:
            self._all.refused -= 1


async def wait_while_connected(
    request: web.Request, awaited: asyncio.Task[Any], seconds: float | None = None
) -> None:
    """Wait for a task while the caller is connected, see `Connection.wait`."""
    assert isinstance(request.protocol, Connection)  # noqa: S101 - all of ours are
    await request.protocol.wait(awaited, seconds)


async def while_connected(request: web.Request, work: Coroutine[Any, Any, T], name: str) -> T:
    """Return what ``work`` returns; it is cancelled when nobody waits for it any more.

    Args:
        request: the caller's.
        work: what the caller waits for.
        name: of its task.

    Raises:
        ConnectionResetError: the caller went away.
        ShuttingDownError: the server is stopping.
    """
    task = asyncio.create_task(work, name=name)
    await wait_while_connected(request, task)
    if not task.cancelled():
        return task.result()
    if request.transport is None or request.transport.is_closing():
        raise ConnectionResetError(f"the caller went away ({name})")
    raise ShuttingDownError(
        "The server is stopping; try again in a minute.", headers={"Retry-After": "60"}
    )
