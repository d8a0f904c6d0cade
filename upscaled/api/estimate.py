"""Estimates: what a job would take, without queueing it."""

from __future__ import annotations

from aiohttp import web

from upscaled.api import upload
from upscaled.api.auth import client_of
from upscaled.api.context import SERVICE
from upscaled.api.responses import json_response
from upscaled.api.status_json import quicker_json
from upscaled.jobs.job import Job
from upscaled.submission_fields import FIELDS, SOURCE_FIELDS
from upscaled.timing.timing import Quote

FIELD_NAMES = (*FIELDS, *SOURCE_FIELDS)
"""Fields that it takes besides the picture, in the form or in the query."""


async def estimate(request: web.Request) -> web.Response:
    """``POST /estimate``: time, memory, disk and result size of a job."""
    client = client_of(request)
    async with upload.received(request, FIELD_NAMES, queues=False, picture_needed=False) as form:
        picture = None if form.filename is None else form.path
        job, quote = await request.app[SERVICE].submissions.quote(form.fields, picture, client)
    return json_response(_describe(job, quote))


def _describe(job: Job, quote: Quote) -> dict[str, object]:
    return {
        "model_name": job.request.model_name,
        "format": job.request.format,
        "input_size": {"width": job.input_size.width, "height": job.input_size.height},
        "output_size": {
            "width": job.request.output_size.width,
            "height": job.request.output_size.height,
        },
        # Tenths, as in the status, but never zero.
        "seconds": max(0.1, round(quote.estimate.total, 1)),
        "wait_seconds": round(quote.wait_seconds, 1),
        "measured": quote.estimate.measured,
        "memory_bytes": quote.memory_bytes,
        "disk_bytes": quote.disk_bytes,
        **quicker_json(quote.quicker),
    }
