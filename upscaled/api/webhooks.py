"""Webhooks of a job: the messages to its receiver."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aiohttp import web

from upscaled.api.auth import client_of
from upscaled.api.context import SERVICE
from upscaled.api.jobs import job_id_of
from upscaled.api.responses import json_response
from upscaled.jobs.webhook_messages import Message, MessageState
from upscaled.outgoing.destination import origin_of


async def deliveries(request: web.Request) -> web.Response:
    """``GET /webhooks/{job_id}``: the messages about a job, and what became of each."""
    service, owner = request.app[SERVICE], client_of(request).owner
    job, messages = await service.jobs.messages(job_id_of(request), owner)
    content: dict[str, Any] = {"job_id": job.id}
    if job.callback is not None:
        # Path and query often hold a secret, and without tokens everybody sees every job.
        content["receiver"] = origin_of(job.callback.url)
        content["callback_events"] = list(job.callback.events)
    return json_response({**content, "messages": [dict(_members(m)) for m in messages]})


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
