"""Estimates: what a job would take, without queueing it."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from upscaled.api import upload
from upscaled.api.auth import client_of
from upscaled.api.context import SERVICE
from upscaled.api.responses import json_response
from upscaled.api.status_json import quicker_json
from upscaled.jobs.job import Job
from upscaled.models.catalog import Model
from upscaled.submission_fields import FIELDS, SOURCE_FIELDS
from upscaled.timing.estimator import Estimate
from upscaled.timing.timing import Quote

FIELD_NAMES = (*FIELDS, *SOURCE_FIELDS)
"""Fields that it takes besides the picture, in the form or in the query."""


async def estimate(request: web.Request) -> web.Response:
    """``POST /estimate``: time, memory, disk and result size of a job."""
    client = client_of(request)
    async with upload.received(request, FIELD_NAMES, queues=False, picture_needed=False) as form:
        picture = None if form.filename is None else form.path
        service = request.app[SERVICE]
        job, quote = await service.submissions.quote(form.fields, picture, client)
        models = await service.compare(job)
    return json_response(_describe(job, quote, models))


def _describe(
    job: Job, quote: Quote, models: Sequence[tuple[Model, Estimate]]
) -> dict[str, object]:
    return {
        "model_name": job.request.model_name,
        "format": job.request.format,
        "input_size": {"width": job.input_size.width, "height": job.input_size.height},
        "output_size": {
            "width": job.request.output_size.width,
            "height": job.request.output_size.height,
        },
        "seconds": _tenths(quote.estimate),
        "wait_seconds": round(quote.wait_seconds, 1),
        "measured": quote.estimate.measured,
        "memory_bytes": quote.memory_bytes,
        "disk_bytes": quote.disk_bytes,
        **quicker_json(quote.quicker),
        "models": [
            {
                "model_name": model.name,
                "seconds": _tenths(estimate),
                "measured": estimate.measured,
            }
            for model, estimate in models
        ],
    }


def _tenths(estimate: Estimate) -> float:
    """Return the seconds of an estimate to a tenth, as in the status, but never zero."""
    return max(0.1, round(estimate.total, 1))
