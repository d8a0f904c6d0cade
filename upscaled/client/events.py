"""Server-sent events, as far as the server uses them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from aiohttp import StreamReader

from upscaled.client.errors import UnexpectedAnswerError

_MOST_BYTES = 1 << 20
"""Of one event: a status with all its attempts has a few KiB."""


@dataclass(frozen=True)
class Event:
    """One event; ``id`` is sent as ``Last-Event-ID`` to go on after it."""

    id: str
    data: str


async def read_events(stream: StreamReader) -> AsyncIterator[Event]:
    """Yield the events of a stream until it ends; comments are left out.

    Raises:
        UnexpectedAnswerError: the stream is none of events.
    """
    id_, rest = "", b""
    data: list[str] = []
    while chunk := await stream.readany():
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) + sum(map(len, data)) > _MOST_BYTES:
            raise UnexpectedAnswerError("The server sends no stream of events.")
        for line in lines:
            name, _, value = line.rstrip(b"\r").decode("utf-8", "replace").partition(":")
            value = value.removeprefix(" ")
            if name == "id":
                id_ = value
            elif name == "data":
                data.append(value)
            elif not name and not value and data:
                yield Event(id_, "\n".join(data))
                data = []
