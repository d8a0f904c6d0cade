"""Estimates: what a job would take, before anything is done, or even sent."""

from __future__ import annotations

from aiohttp import web

from upscaled.api import upload
from upscaled.api.auth import client_of
from upscaled.api.keys import RATES, SERVICE
from upscaled.api.responses import answer
from upscaled.jobs.job import Job
from upscaled.service.admission import FIELDS, SOURCE_FIELDS
from upscaled.timing.timing import Quote


async def estimate(request: web.Request) -> web.Response:
    """``POST /estimate``: time, memory, disk and size of the job that a submission would make."""
    service = request.app[SERVICE]
    intake = service.intake
    max_bytes = service.config.server.max_request_size_mb * 2**20
    upload.check_head(request, max_bytes)
    rates = request.app[RATES].check(client_of(request).key)
    await intake.check_room(request.content_length or 0)
    target = intake.reserve_upload()
    try:
        fields, filename = await upload.receive(
            request,
            target,
            allowed=[*FIELDS, *SOURCE_FIELDS],
            max_bytes=max_bytes,
            seconds_per_mib=service.config.server.body_timeout_seconds,
            picture_needed=False,
        )
        job, quote = await intake.quote(fields, None if filename is None else target)
    finally:
        await intake.discard_upload(target)
    return answer(_describe(job, quote), headers=rates)


def _describe(job: Job, quote: Quote) -> dict[str, object]:
    return {
        "model_name": job.request.model_name,
        "format": job.request.format,
        "input_size": {"width": job.input_size.width, "height": job.input_size.height},
        "output_size": {
            "width": job.request.output_size.width,
            "height": job.request.output_size.height,
        },
        # Tenths as in the status; a small picture takes more than none at all.
        "seconds": max(0.1, round(quote.estimate.total, 1)),
        "wait_seconds": round(quote.wait_seconds, 1),
        "measured": quote.estimate.measured,
        "memory_bytes": quote.memory_bytes,
        "disk_bytes": quote.disk_bytes,
    }
