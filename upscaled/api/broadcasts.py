"""Broadcasts: the events of one job, made once for all who listen to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import cast

from aiohttp import HttpVersion11, web
from aiohttp.http import StreamWriter

from upscaled.api.event_streams import EventStreams
from upscaled.jobs.updates import JobUpdate, LaggedError, Subscription

_HEARTBEAT = b":\n\n"

Encode = Callable[[JobUpdate], bytes]
"""Returns an update as an event."""
Subscribe = Callable[[], AbstractAsyncContextManager[Subscription]]


class Listener:
    """One open response that is sent events without waiting for it.

    Args:
        request: its response has begun, and nothing of its body is under way.
        last: number of the update that the listener has, 0 for none.
    """

    def __init__(self, request: web.Request, last: int) -> None:
        self.last = last
        self._writer = cast(StreamWriter, request.writer)
        self._transport = request.transport
        self._framed = request.version >= HttpVersion11

    @property
    def is_behind(self) -> bool:
        """Whether something that was sent before still waits, or the caller is gone."""
        transport = self._transport
        return transport is None or transport.is_closing() or transport.get_write_buffer_size() > 0

    def send(self, data: bytes, chunk: bytes | None = None) -> None:
        """Send ``data``; ``chunk`` is the same as `framed`, if that was made already."""
        if self._transport is None or self._transport.is_closing():
            return
        sent = (chunk or framed(data)) if self._framed else data
        self._transport.write(sent)
        self._writer.output_size += len(sent)  # for the access log


def framed(data: bytes) -> bytes:
    """Return data as a chunk of a chunked response."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class _Broadcast:
    """The events of one job with the same links."""

    def __init__(self, encode: Encode, streams: EventStreams, heartbeat: float) -> None:
        self.listeners: set[Listener] = set()
        self._encode = encode
        self._streams = streams
        self._heartbeat = heartbeat
        self._latest: JobUpdate | None = None
        self._made = self._made_chunk = b""
        self.sending: asyncio.Task[None]

    def add(self, listener: Listener) -> None:
        """Add a listener, and send it at once what it lacks."""
        self.listeners.add(listener)
        if self._latest is not None:
            self._send_latest(listener, self._latest)

    async def send(self, subscribe: Subscribe) -> None:
        """Send each update to all listeners, up to the job's end."""
        async with subscribe() as updates:
            with contextlib.suppress(LaggedError, StopAsyncIteration):
                while True:
                    try:
                        async with asyncio.timeout(self._heartbeat):
                            update = await anext(updates)
                    except TimeoutError:
                        self._send_heartbeat()
                        continue
                    self._latest, self._made = update, self._encode(update)
                    self._made_chunk = framed(self._made)
                    for listener in tuple(self.listeners):
                        self._send_latest(listener, update)
                    if updates.empty and not update.ended:
                        await updates.gather(self._streams.pause)

    def _send_latest(self, listener: Listener, update: JobUpdate) -> None:
        """Send the latest update to a listener who lacks it.

        A listener that is behind gets it later, or a later one instead. So at most one event and
        the end wait for a listener that does not read.
        """
        if update.ended or (update.sequence > listener.last and not listener.is_behind):
            listener.send(self._made, self._made_chunk)
            listener.last = update.sequence

    def _send_heartbeat(self) -> None:
        chunk = framed(_HEARTBEAT)
        for listener in tuple(self.listeners):
            if self._latest is not None and listener.last < self._latest.sequence:
                self._send_latest(listener, self._latest)
            elif not listener.is_behind:
                listener.send(_HEARTBEAT, chunk)


class Broadcasts:
    """All broadcasts that have listeners.

    A task, a timer and an encoded event for each listener would cost a job on the same machine
    more than the sending does.
    """

    def __init__(self, streams: EventStreams) -> None:
        self._streams = streams
        self._open: dict[tuple[str, str], _Broadcast] = {}

    async def listen(
        self,
        which: tuple[str, str],
        listener: Listener,
        subscribe: Subscribe,
        encode: Encode,
        heartbeat: float,
    ) -> None:
        """Send the listener updates, up to the job's end.

        Args:
            which: the job's id, and what links start with. Nothing else may differ in the
                arguments that follow.
            listener: is sent the events.
            subscribe: listens to the job.
            encode: makes an event.
            heartbeat: seconds without an event after which a comment is sent.
        """
        broadcast = self._open.get(which)
        if broadcast is None:
            broadcast = self._open[which] = _Broadcast(encode, self._streams, heartbeat)
            broadcast.sending = asyncio.create_task(
                broadcast.send(subscribe), name=f"broadcast-{which[0]}"
            )
        broadcast.add(listener)
        try:
            await asyncio.wait({broadcast.sending})
        finally:
            broadcast.listeners.discard(listener)
            if self._open.get(which) is broadcast and (
                not broadcast.listeners or broadcast.sending.done()
            ):
                del self._open[which]
                broadcast.sending.cancel()
                await asyncio.wait({broadcast.sending})
        if not broadcast.sending.cancelled():
            broadcast.sending.result()
