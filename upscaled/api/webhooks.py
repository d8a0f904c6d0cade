"""Webhooks of a job: the messages to its receiver."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from aiohttp import web

from upscaled.api.auth import client_of
from upscaled.api.context import SERVICE
from upscaled.api.jobs import job_id_of
from upscaled.api.responses import json_response
from upscaled.jobs.job import Callback
from upscaled.jobs.webhook_messages import Message, MessageState
from upscaled.outgoing.destination import origin_of


async def deliveries(request: web.Request) -> web.Response:
    """``GET /webhooks/{job_id}``: the messages about a job, and what became of each."""
    service, owner = request.app[SERVICE], client_of(request).owner
    job, messages = await service.jobs.messages(job_id_of(request), owner)
    return json_response({"job_id": job.id, **_told(job.callback, messages)})


async def deliveries_of_archive(request: web.Request) -> web.Response:
    """``GET /archives/{archive_id}/webhooks``: the messages about an archive."""
    archives, owner = request.app[SERVICE].archives, client_of(request).owner
    record, messages = await archives.messages(request.match_info["archive_id"], owner)
    return json_response({"archive_id": record.id, **_told(record.callback, messages)})


def _told(callback: Callback | None, messages: Sequence[Message]) -> dict[str, Any]:
    told: dict[str, Any] = {"messages": [dict(_members(message)) for message in messages]}
    if callback is not None:
        # Path and query often hold a secret, and without tokens everybody sees every job.
        told["receiver"] = origin_of(callback.url)
        told["callback_events"] = list(callback.events)
    return told


def _members(message: Message) -> Iterator[tuple[str, Any]]:
    yield "id", message.id
    yield "event", message.event
    yield "state", message.state.value
    yield "attempts", message.attempts
    yield "created", message.created
    if message.state is MessageState.PENDING:
        yield "next_attempt", message.due
    if message.finished is not None:
        yield "finished", message.finished
    if message.status is not None:
        yield "last_status", message.status
    if message.error is not None:
        yield "last_error", message.error
