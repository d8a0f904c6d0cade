"""Jobs: submit one, ask how it stands, cancel it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from aiohttp import web

from upscaled.admission import FIELDS
from upscaled.api import upload
from upscaled.api.answers import answer
from upscaled.api.auth import client_of
from upscaled.api.keys import PREFIX, RATES, SERVICE
from upscaled.errors import UnknownJobError, WrongStateError
from upscaled.forecast import Outlook
from upscaled.jobs import TERMINAL, Job, JobState, is_job_id
from upscaled.pictures import Size


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
    outlook = None if job.state in TERMINAL else request.app[SERVICE].outlook(job.id)
    return answer({**describe(job, request.app[PREFIX]), **_foreseen(outlook)})


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


def _foreseen(outlook: Outlook | None) -> dict[str, Any]:
    """Return what the status tells of the time to come."""
    if outlook is None:
        return {}
    # Tenths: no estimate is better, and a client sees that it goes down.
    seconds = {"eta_seconds": round(outlook.eta_seconds, 1)}
    return seconds if outlook.position is None else {"queue_position": outlook.position, **seconds}


def _size(size: Size) -> dict[str, int]:
    return {"width": size.width, "height": size.height}


def _running(job: Job, _: str) -> dict[str, Any]:
    return {"progress": job.progress}


def _completed(job: Job, prefix: str) -> dict[str, Any]:
    return {
        "progress": job.progress,
        "download_url": f"{prefix}/download/{job.id}",
        # Hundredths: finer than anybody's patience, coarser than the clock's noise.
        "duration_seconds": round(job.duration or 0.0, 2),
        "input_size": _size(job.input_size),
        "output_size": _size(job.request.output_size),
        "file_size_bytes": job.file_size_bytes,
    }


def _failed(job: Job, _: str) -> dict[str, Any]:
    return {"error": job.error}


def _cancelled(_: Job, __: str) -> dict[str, Any]:
    return {}


_DETAILS: Mapping[JobState, Callable[[Job, str], dict[str, Any]]] = {
    JobState.QUEUED: _running,
    JobState.PROCESSING: _running,
    JobState.COMPLETED: _completed,
    JobState.FAILED: _failed,
    JobState.CANCELLED: _cancelled,
}


def _additions(job: Job) -> Iterator[tuple[str, Any]]:
    """Yield what the status tells beyond the guide, as far as there is something to tell."""
    yield "model_name", job.request.model_name
    if job.request.scale is not None:
        yield "scale", job.request.scale
    if job.device is not None:
        yield "device", job.device
    if job.attempts:
        yield "attempts", [asdict(attempt) for attempt in job.attempts]


def describe(job: Job, prefix: str) -> dict[str, Any]:
    """Return a job as ``GET /status`` shows it; each state has its own fields."""
    return {
        "job_id": job.id,
        "status": job.state.value,
        **_DETAILS[job.state](job, prefix),
        **dict(_additions(job)),
    }
