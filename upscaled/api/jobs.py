"""Jobs: submit one, ask how it stands, cancel it."""

from __future__ import annotations

import asyncio
import re

from aiohttp import web

from upscaled.api import upload
from upscaled.api.auth import client_of
from upscaled.api.connections import Connection
from upscaled.api.keys import DESCRIPTIONS, PREFIX, RATES, SERVICE
from upscaled.api.responses import answer, answer_with
from upscaled.errors import BadRequestError, UnknownJobError, WrongStateError
from upscaled.jobs.job import TERMINAL, Job, JobState, is_job_id
from upscaled.service.admission import FIELDS

_LONGEST_WAIT = 60
"""Seconds. What lies between caller and server often ends a connection that is idle for longer."""


def job_id_of(request: web.Request) -> str:
    """Return the job id in the request's path.

    Raises:
        UnknownJobError: it has not the form of one.
    """
    job_id = request.match_info["job_id"]
    if not is_job_id(job_id):
        raise UnknownJobError("There is no job with this id; ids are 19 digits.")
    return job_id


async def submit(request: web.Request) -> web.Response:
    """``POST /upscale``: take a picture, answer 202 with the job's id."""
    service = request.app[SERVICE]
    intake = service.intake
    max_bytes = service.config.server.max_request_size_mb * 2**20
    upload.check_head(request, max_bytes)
    client = client_of(request)
    rates = request.app[RATES].check(client.key)
    intake.check(client)
    await intake.check_room(request.content_length or 0)
    target = intake.reserve_upload()
    try:
        fields, filename = await upload.receive(
            request,
            target,
            allowed=FIELDS,
            max_bytes=max_bytes,
            seconds_per_mib=service.config.server.body_timeout_seconds,
        )
    except BaseException:
        await intake.discard_upload(target)
        raise
    job = await intake.submit(fields, target, filename or "", client)
    url = f"{request.app[PREFIX]}/status/{job.id}"
    content = {"success": True, "job_id": job.id, "status_url": url}
    return answer(content, status=202, headers=rates)


async def status(request: web.Request) -> web.Response:
    """``GET /status/{job_id}``: how the job stands; ``?wait=30``: once it has ended, or then."""
    service, owner = request.app[SERVICE], client_of(request).owner
    job = await service.job(job_id_of(request), owner)
    if (seconds := _seconds_to_wait(request)) and job.state not in TERMINAL:
        await _until_ended(request, job, seconds)
        job = await service.job(job.id, owner)
    return answer_with(request.app[DESCRIPTIONS].of(job))


def _seconds_to_wait(request: web.Request) -> int:
    """Return the seconds of the query's ``wait``, 0 where it has none.

    Raises:
        BadRequestError: it is no such number.
    """
    if not request.query_string:
        return 0
    values = request.query.getall("wait", ["0"])
    # A dozen digits at most: int() refuses thousands of them in its own words.
    number = re.fullmatch("[0-9]{1,12}", values[0])
    if len(values) > 1 or number is None or int(values[0]) > _LONGEST_WAIT:
        shown = ", ".join(values)[:64]
        raise BadRequestError(
            f"wait is {shown!r}; allowed is one whole number of seconds from 0 to {_LONGEST_WAIT}."
        )
    return int(values[0])


async def _until_ended(request: web.Request, job: Job, seconds: int) -> None:
    """Wait for a job's end, as long as the caller is there and the server isn't stopping."""
    ended = asyncio.create_task(request.app[SERVICE].wait(job.id), name=f"wait-{job.id}")
    assert isinstance(request.protocol, Connection)  # noqa: S101 - all of ours are
    await request.protocol.wait(ended, seconds)


async def cancel(request: web.Request) -> web.Response:
    """``POST /cancel/{job_id}``: stop a queued or running job."""
    job = await request.app[SERVICE].cancel(job_id_of(request), client_of(request).owner)
    return answer({"success": True, "job_id": job.id, "status": job.state.value})


async def receipt(request: web.Request) -> web.Response:
    """``GET /receipt/{job_id}``: how the result of a completed job came about."""
    job = await request.app[SERVICE].job(job_id_of(request), client_of(request).owner)
    if job.state is not JobState.COMPLETED:
        raise WrongStateError(f"The job is {job.state.value}; only a completed job has a receipt.")
    return answer({"job_id": job.id, **job.receipt})
