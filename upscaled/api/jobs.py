"""Jobs: submit one, ask how it stands, cancel it."""

from __future__ import annotations

from aiohttp import web

from upscaled.admission import FIELDS
from upscaled.api import upload
from upscaled.api.answers import answer, answer_with
from upscaled.api.auth import client_of
from upscaled.api.keys import DESCRIPTIONS, PREFIX, RATES, SERVICE
from upscaled.errors import UnknownJobError, WrongStateError
from upscaled.jobs import JobState, is_job_id


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
    max_bytes = service.config.server.max_request_size_mb * 2**20
    upload.check_head(request, max_bytes)
    client = client_of(request)
    rates = request.app[RATES].check(client.key)
    service.check_admission(client)
    await service.check_room(request.content_length or 0)
    target = service.reserve_upload()
    try:
        fields, filename = await upload.receive(
            request,
            target,
            allowed=FIELDS,
            max_bytes=max_bytes,
            seconds_per_mib=service.config.server.body_timeout_seconds,
        )
    except BaseException:
        await service.discard_upload(target)
        raise
    job = await service.submit(fields, target, filename or "", client)
    url = f"{request.app[PREFIX]}/status/{job.id}"
    content = {"success": True, "job_id": job.id, "status_url": url}
    return answer(content, status=202, headers=rates)


async def status(request: web.Request) -> web.Response:
    """``GET /status/{job_id}``: how the job stands."""
    job = await request.app[SERVICE].job(job_id_of(request), client_of(request).owner)
    return answer_with(request.app[DESCRIPTIONS].of(job))


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
