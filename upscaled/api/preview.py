"""Previews: a part of a picture, upscaled while its caller waits."""

from __future__ import annotations

from aiohttp import web

from upscaled.api import upload
from upscaled.api.auth import client_of
from upscaled.api.connections import while_connected
from upscaled.api.context import PREVIEW_RATE, SERVICE
from upscaled.errors import BadRequestError
from upscaled.service import previews

FIELD_NAMES = previews.FIELD_NAMES


async def preview(request: web.Request) -> web.StreamResponse:
    """``POST /preview``: a part of the picture, upscaled; a caller who hangs up ends the work."""
    service = request.app[SERVICE]
    if not service.config.limits.preview_pixels:
        raise BadRequestError("This server makes no previews (limits.preview_pixels is 0).")
    client = client_of(request)
    async with upload.received(request, FIELD_NAMES, queues=False, rate=PREVIEW_RATE) as form:
        making = service.previews.make(form.fields, form.path, client)
        made = await while_connected(request, making, "preview")
    headers = {
        "Content-Type": "image/png",
        "Upscaled-Model": made.model_name,
        "Upscaled-Scale": str(made.scale),
        "Upscaled-Seconds": f"{made.seconds:.2f}",
        "Cache-Control": "no-store",
    }
    return web.Response(body=made.png, headers=headers)
