"""The open streams of events: how many there are, and what one may hold."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

from upscaled.errors import TooManyConnectionsError

_SEND_BUFFER_BYTES = 64 * 1024
"""Bytes that the system holds for a listener that does not read; its default is up to 4 MiB."""
_SHARE = 0.75
"""Of all connections; the rest is for other requests."""


_SHORTEST_PAUSE_SECONDS = 0.25
_EVENT_SECONDS = 40e-6
"""Processor time that one event costs on one stream (measured with 1,000 of them)."""
_BUSY_SHARE = 0.04
"""Share of the event loop's time that all streams together may take while no job ends."""


class EventStreams:
    """The open streams of events.

    Args:
        max_connections: how many connections may be open, streams or not.
        send_seconds: time in which a listener must acknowledge what was sent.
    """

    def __init__(self, max_connections: int, send_seconds: float) -> None:
        self._most = max(1, int(max_connections * _SHARE))
        self._send_seconds = send_seconds
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Count a stream for the length of the block.

        Raises:
            TooManyConnectionsError: there are as many as there may be.
        """
        if self._count >= self._most:
            raise TooManyConnectionsError(
                f"{self._count} streams of events are open, as many as server.max_connections "
                "allows; try again in 5 s, or poll GET /status/{job_id}?wait=30.",
                headers={"Retry-After": "5"},
            )
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1

    @property
    def pause(self) -> float:
        """Seconds between two events of a stream, unless a job ends.

        It grows with the number of streams, which bounds the events of all together: a quarter of
        a second for up to 250 of them, one second for 1,000.
        """
        return max(_SHORTEST_PAUSE_SECONDS, self._count * _EVENT_SECONDS / _BUSY_SHARE)

    def bound(self, transport: asyncio.Transport | None) -> None:
        """Bound what the system keeps for a listener who does not read, or is gone."""
        connection = transport.get_extra_info("socket") if transport else None
        if connection is None:
            return
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        if connection.family in {socket.AF_INET, socket.AF_INET6}:
            # RFC 5482: the system ends the connection when nothing is acknowledged for so long, and
            # tells a vanished listener nothing. `Connection` resets it before, where it can.
            seconds = 2 * self._send_seconds
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * seconds))
