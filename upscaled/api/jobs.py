"""Jobs: submit, status, cancel, receipt."""

from __future__ import annotations

import asyncio
import re

from aiohttp import web

from upscaled.api import upload
from upscaled.api.auth import client_of
from upscaled.api.connections import Connection
from upscaled.api.context import PREFIX, SERVICE, STATUS_RENDERER
from upscaled.api.responses import json_body_response, json_response
from upscaled.errors import BadRequestError, UnknownJobError, WrongStateError
from upscaled.jobs.job import TERMINAL, Job, JobState, is_job_id
from upscaled.service.admission import FIELDS

_LONGEST_WAIT = 60
"""Seconds. Proxies often close a connection that is idle for longer."""


def job_id_of(request: web.Request) -> str:
    """Return the job id in the request's path.

    Raises:
        UnknownJobError: it does not look like one.
    """
    job_id = request.match_info["job_id"]
    if not is_job_id(job_id):
        raise UnknownJobError("There is no job with this id; ids are 19 digits.")
    return job_id


async def submit(request: web.Request) -> web.Response:
    """``POST /upscale``: take a picture; 202 with the job's id."""
    intake = request.app[SERVICE].intake
    async with upload.received(request, FIELDS, queues=True) as form:
        job = await intake.submit(form.fields, form.path, form.filename or "", client_of(request))
    url = f"{request.app[PREFIX]}/status/{job.id}"
    content = {"success": True, "job_id": job.id, "status_url": url}
    return json_response(content, status=202, headers=form.rate_headers)


async def status(request: web.Request) -> web.Response:
    """``GET /status/{job_id}``; ``?wait=30`` answers when the job ends, after 30 s at most."""
    service, owner = request.app[SERVICE], client_of(request).owner
    job = await service.job(job_id_of(request), owner)
    if (seconds := _seconds_to_wait(request)) and job.state not in TERMINAL:
        await _until_ended(request, job, seconds)
        job = await service.job(job.id, owner)
    return json_body_response(request.app[STATUS_RENDERER].render(job))


def _seconds_to_wait(request: web.Request) -> int:
    """Return the query's ``wait``, 0 if it has none.

    Raises:
        BadRequestError: it is not a whole number of seconds, or too large.
    """
    if not request.query_string:
        return 0
    values = request.query.getall("wait", ["0"])
    # int() refuses thousands of digits with a message of its own.
    number = re.fullmatch("[0-9]{1,12}", values[0])
    if len(values) > 1 or number is None or int(values[0]) > _LONGEST_WAIT:
        shown = ", ".join(values)[:64]
        raise BadRequestError(
            f"wait is {shown!r}; allowed is one whole number of seconds from 0 to {_LONGEST_WAIT}."
        )
    return int(values[0])


async def _until_ended(request: web.Request, job: Job, seconds: int) -> None:
    """Wait for a job's end while the caller is connected and the server is not stopping."""
    ended = asyncio.create_task(request.app[SERVICE].wait(job.id), name=f"wait-{job.id}")
    assert isinstance(request.protocol, Connection)  # noqa: S101 - all of ours are
    await request.protocol.wait(ended, seconds)


async def cancel(request: web.Request) -> web.Response:
    """``POST /cancel/{job_id}``: stop a queued or running job."""
    job = await request.app[SERVICE].cancel(job_id_of(request), client_of(request).owner)
    return json_response({"success": True, "job_id": job.id, "status": job.state.value})


async def receipt(request: web.Request) -> web.Response:
    """``GET /receipt/{job_id}``: how the result of a completed job was made."""
    job = await request.app[SERVICE].job(job_id_of(request), client_of(request).owner)
    if job.state is not JobState.COMPLETED:
        raise WrongStateError(f"The job is {job.state.value}; only a completed job has a receipt.")
    return json_response({"job_id": job.id, **job.receipt})
