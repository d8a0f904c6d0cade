"""Jobs: status, cancel, receipt."""

from __future__ import annotations

from aiohttp import web

from upscaled.api.auth import client_of
from upscaled.api.context import LINK_BASE, SERVICE, STATUS_RENDERER
from upscaled.api.responses import json_body_response, json_response
from upscaled.api.waiting import wait_for_end, wait_of
from upscaled.errors import UnknownJobError, WrongStateError
from upscaled.jobs.job import JobState, is_job_id


def job_id_of(request: web.Request) -> str:
    """Return the job id in the request's path.

    Raises:
        UnknownJobError: it does not look like one.
    """
    job_id = request.match_info["job_id"]
    if not is_job_id(job_id):
        raise UnknownJobError("There is no job with this id; ids are 19 digits.")
    return job_id


async def status(request: web.Request) -> web.Response:
    """``GET /status/{job_id}``; ``?wait=30`` answers when the job ends, after 30 s at most."""
    wait = wait_of(request)
    job = await request.app[SERVICE].jobs.get(job_id_of(request), client_of(request).owner)
    job = await wait_for_end(request, job, wait)
    body = request.app[STATUS_RENDERER].render(job, request.app[LINK_BASE].of(request))
    return json_body_response(body, headers=wait.headers)


async def cancel(request: web.Request) -> web.Response:
    """``POST /cancel/{job_id}``: stop a queued or running job."""
    job = await request.app[SERVICE].jobs.cancel(job_id_of(request), client_of(request).owner)
    return json_response({"success": True, "job_id": job.id, "status": job.state.value})


async def receipt(request: web.Request) -> web.Response:
    """``GET /receipt/{job_id}``: how the result of a completed job was made."""
    job = await request.app[SERVICE].jobs.get(job_id_of(request), client_of(request).owner)
    if job.state is not JobState.COMPLETED:
        raise WrongStateError(f"The job is {job.state.value}; only a completed job has a receipt.")
    return json_response({"job_id": job.id, **job.receipt})
