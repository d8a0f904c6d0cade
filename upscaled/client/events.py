"""Server-sent events, as far as the server uses them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import TypeVar

from aiohttp import StreamReader

from upscaled.client.errors import BusyError, UnexpectedAnswerError, UnreachableError
from upscaled.client.transport import Transport

T = TypeVar("T")

POLL_SECONDS = 5
"""How long a status request waits for the end where there are no events."""
_MOST_FAILURES = 2
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
        UnexpectedAnswerError: it is not a stream of events.
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


async def followed(
    transport: Transport, path: str, parse: Callable[[str], T]
) -> AsyncGenerator[T, None]:
    """Yield the events of an endpoint. A stream that breaks off is continued after its last event.

    The generator ends when the stream broke off twice without a new event in between, or when no
    events arrive: a proxy may hold them back.

    Args:
        transport: to the server.
        path: the endpoint.
        parse: turns an event's data into what is yielded.

    Raises:
        ClientError: the server refused it.
    """
    last_id, failures = "", 0
    while failures < _MOST_FAILURES:
        headers = {"Accept": "text/event-stream"}
        if last_id:
            headers["Last-Event-ID"] = last_id
        with contextlib.suppress(UnreachableError, UnexpectedAnswerError, BusyError):
            async with transport.attempt("GET", path, headers=headers) as answer:
                if answer.content_type != "text/event-stream":
                    raise UnexpectedAnswerError("The server sends no events.")
                async for event in read_events(answer.content):
                    told = parse(event.data)
                    if event.id and event.id != last_id:
                        last_id, failures = event.id, 0
                    yield told
        failures += 1
