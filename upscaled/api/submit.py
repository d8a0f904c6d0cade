"""Submissions: a picture comes in, and its job's addresses go out."""

from __future__ import annotations

from aiohttp import web

from upscaled.api import upload
from upscaled.api.auth import client_of
from upscaled.api.context import LINK_BASE, SERVICE
from upscaled.api.links import Links
from upscaled.api.responses import json_response
from upscaled.api.waiting import ANSWER_SECONDS
from upscaled.service.admission import FIELDS


async def submit(request: web.Request) -> web.Response:
    """``POST /upscale``: take a picture; 202 with the job's id."""
    intake = request.app[SERVICE].intake
    async with upload.received(request, FIELDS, queues=True) as form:
        job = await intake.submit(form.fields, form.path, form.filename or "", client_of(request))
    links = request.app[LINK_BASE].links(request, job.id)
    headers = {**form.rate_headers, "Location": links.status}
    return json_response(_accepted(links), status=202, headers=headers)


def _accepted(links: Links) -> dict[str, object]:
    return {
        "success": True,
        "job_id": links.job_id,
        "status_url": links.status,
        # There are clients that ask for the result at once, and only once.
        "download_url": f"{links.download}?wait={ANSWER_SECONDS}",
        "cancel_url": links.cancel,
        "events_url": links.events,
    }
