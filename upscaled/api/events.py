"""Live events: changes of jobs as server-sent events (``text/event-stream``)."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
from collections.abc import Callable, Coroutine
from typing import Any

from aiohttp import web

from upscaled.api.auth import client_of
from upscaled.api.broadcasts import Listener
from upscaled.api.connections import wait_while_connected
from upscaled.api.context import BROADCASTS, EVENT_STREAMS, LINK_BASE, SERVICE, STATUS_RENDERER
from upscaled.api.event_streams import EventStreams
from upscaled.api.jobs import job_id_of
from upscaled.api.query import flag
from upscaled.api.status_json import StatusRenderer
from upscaled.errors import UnknownJobError
from upscaled.jobs.job import TERMINAL, JobState
from upscaled.jobs.updates import Change, JobDeletion, JobUpdate, LaggedError, Subscription

QUERY = frozenset({"deletions"})
HEARTBEAT_SECONDS = 15.0
"""Proxies and clients cut a silent connection after 30 to 60 s."""
_RETRY_MILLISECONDS = 2000
"""After which a client is to connect again."""


async def of_job(request: web.Request) -> web.StreamResponse:
    """``GET /events/{job_id}``: a job's state, then each change, up to its end."""
    service, owner = request.app[SERVICE], client_of(request).owner
    job = await service.jobs.get(job_id_of(request), owner)
    last = last_event_id(request)
    if last is not None and _is_end(last) and job.state in TERMINAL:
        return web.Response(status=204)  # tells an EventSource not to connect again
    after = None if last is None else _sequence(last)
    base = request.app[LINK_BASE].of(request)
    encode = functools.partial(event_of, renderer=request.app[STATUS_RENDERER], base=base)

    async def send(_response: web.StreamResponse) -> None:
        listener = Listener(request, after or 0)
        async with service.jobs.subscribe(job.id, owner, after=after) as updates:
            while not updates.empty:
                update = await anext(updates)
                listener.send(encode(update))
                listener.last = update.sequence
                if update.ended:
                    return
        await request.app[BROADCASTS].listen(
            (job.id, base),
            listener,
            functools.partial(service.jobs.subscribe, job.id),
            encode,
            HEARTBEAT_SECONDS,
        )

    return await stream(request, send, f"job-{job.id}")


async def of_all(request: web.Request) -> web.StreamResponse:
    """``GET /events``: the caller's active jobs, then each change of any of its jobs.

    Deletions are told to those who ask for them: other callers expect a job's status in each event.
    """
    deletions = flag(request, "deletions")
    last = last_event_id(request)
    after = None if last is None else _sequence(last)
    jobs, owner = request.app[SERVICE].jobs, client_of(request).owner
    base, streams = request.app[LINK_BASE].of(request), request.app[EVENT_STREAMS]
    renderer = request.app[STATUS_RENDERER]

    def encode(change: Change) -> bytes:
        return (
            _deleted(change)
            if isinstance(change, JobDeletion)
            else event_of(change, renderer, base)
        )

    async def send(response: web.StreamResponse) -> None:
        async with jobs.subscribe_all(owner, after=after, deletions=deletions) as changes:
            await _send(response, changes, encode, streams)

    return await stream(request, send, "all")


def last_event_id(request: web.Request) -> int | None:
    """Return the id of the last event that the caller has; None: it has none of ours."""
    given = re.fullmatch("[0-9]{1,19}", request.headers.get("Last-Event-ID", ""))
    return int(given[0]) if given else None


# An id is twice the update's number, plus 1 if the job has ended. So a client that comes back
# after the end is known to have it, even by a server that was restarted since.


def _event_id(change: Change) -> int:
    return 2 * change.sequence + change.ended


def _sequence(event_id: int) -> int:
    return event_id // 2


def _is_end(event_id: int) -> bool:
    return event_id % 2 == 1


def event_of(update: JobUpdate, renderer: StatusRenderer, base: str) -> bytes:
    """Return an update as an event: the job's status, its stage and the attempt's number.

    Its links start with ``base``.
    """
    more = b""
    if update.stage is not None:
        more += b',"stage":"%b"' % update.stage.encode()
    if update.job.state is JobState.PROCESSING:
        attempts = update.job.attempts
        # A successful attempt is the one whose result is being finished.
        finishing = bool(attempts) and attempts[-1].outcome == "ok"
        more += b',"attempt":%d' % (len(attempts) + (not finishing))
    status = renderer.render(update.job, base)
    return b"id: %d\nevent: update\ndata: %b%b}\n\n" % (_event_id(update), status[:-1], more)


def _deleted(deletion: JobDeletion) -> bytes:
    text = b'id: %d\nevent: deleted\ndata: {"job_id":"%b"}\n\n'
    return text % (_event_id(deletion), deletion.job_id.encode())


async def stream(
    request: web.Request, send: Callable[[web.StreamResponse], Coroutine[Any, Any, None]], name: str
) -> web.StreamResponse:
    """Let ``send`` send updates while the caller is connected and the server is not stopping."""
    streams = request.app[EVENT_STREAMS]
    with streams.opened():
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
            }
        )
        response.force_close()  # the connection's small send buffer is for this stream only
        if request.method == "HEAD":
            await response.prepare(request)
            return response
        streams.bound(request.transport)
        await response.prepare(request)
        await response.write(b"retry: %d\n\n" % _RETRY_MILLISECONDS)
        sending = asyncio.create_task(send(response), name=f"events-{name}")
        await wait_while_connected(request, sending)
        if not sending.cancelled():
            with contextlib.suppress(UnknownJobError):  # it was deleted a moment ago
                sending.result()
        return response


async def _send(
    response: web.StreamResponse,
    changes: Subscription,
    encode: Callable[[Change], bytes],
    streams: EventStreams,
) -> None:
    """Send changes of all jobs.

    A listener who falls too far behind is cut off: it connects again with the id of its last event
    and misses nothing.

    Raises:
        ConnectionError: the caller is gone.
    """
    with contextlib.suppress(LaggedError):
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    change = await changes.change()
            except TimeoutError:
                await response.write(b":\n\n")
                continue
            await response.write(encode(change))
            if changes.empty:
                await changes.gather(streams.pause)
