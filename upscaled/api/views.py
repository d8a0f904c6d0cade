"""Views of a job's pictures: thumbnails and tiles. Viewing never counts as downloading."""

from __future__ import annotations

import re

from aiohttp import web

from upscaled.api.auth import client_of
from upscaled.api.context import SENDING, SERVICE
from upscaled.api.jobs import job_id_of
from upscaled.api.query import query_of
from upscaled.api.responses import json_response
from upscaled.api.sending import Sending
from upscaled.errors import BadRequestError, NoViewError
from upscaled.imaging import TILE, levels_of
from upscaled.jobs.job import Job
from upscaled.service.job_views import RESULT, SIDES
from upscaled.service.view_cache import ViewedPicture

_CACHED = "private, max-age=3600"
"""A job's pictures never change, but they are deleted at some time."""
_NUMBER = re.compile("[0-9]{1,6}")


async def thumbnail(request: web.Request) -> web.StreamResponse:
    """``GET /thumbnail/{job_id}``: a small WebP of the result, or with ``side`` of the source."""
    values = query_of(request).getall("side", [RESULT])
    if len(values) > 1 or values[0] not in SIDES:
        shown = ", ".join(values)[:64]
        raise BadRequestError(f"side is {shown!r}; it must be {' or '.join(SIDES)}.")
    picture = await _picture(request, values[0])
    etag = f'"{picture.key}"'
    if (unchanged := _unchanged(request, etag)) is not None:
        return unchanged
    client = client_of(request)
    content = await request.app[SERVICE].views.thumbnail(picture, client.key)
    return await _send(request, content, "image/webp", etag)


async def tiles(request: web.Request) -> web.Response:
    """``GET /tiles/{job_id}``: the sizes of source and result, and how many levels they have."""
    found = await request.app[SERVICE].job_views.pictures(await _job(request))
    sides = {side: None if one is None else _described(one) for side, one in found.items()}
    return json_response({"tile_size": TILE, **sides})


async def tile(request: web.Request) -> web.StreamResponse:
    """``GET /tiles/{job_id}/{side}/{level}/{column}/{row}``: one tile."""
    side = request.match_info["side"]
    places = [request.match_info[name] for name in ("level", "column", "row")]
    if side not in SIDES or not all(_NUMBER.fullmatch(place) for place in places):
        raise NoViewError("There is no such tile; /tiles/{job_id} tells which there are.")
    level, column, row = (int(place) for place in places)
    picture = await _picture(request, side)
    etag = f'"{picture.key}-{level}-{column}-{row}"'
    if (unchanged := _unchanged(request, etag)) is not None:
        return unchanged
    content, media_type = await request.app[SERVICE].views.tile(
        picture, level, column, row, client_of(request).key
    )
    return await _send(request, content, media_type, etag)


def _described(picture: ViewedPicture) -> dict[str, int]:
    size = picture.size
    return {"width": size.width, "height": size.height, "levels": len(levels_of(size))}


async def _job(request: web.Request) -> Job:
    return await request.app[SERVICE].jobs.get(job_id_of(request), client_of(request).owner)


async def _picture(request: web.Request, side: str) -> ViewedPicture:
    return await request.app[SERVICE].job_views.picture(await _job(request), side)


def _unchanged(request: web.Request, etag: str) -> web.Response | None:
    """Return the 304 answer for a caller that has this view; None for others."""
    known = [value.strip() for value in request.headers.get("If-None-Match", "").split(",")]
    if etag not in known:
        return None
    return web.Response(status=304, headers={"ETag": etag, "Cache-Control": _CACHED})


async def _send(
    request: web.Request, content: bytes, media_type: str, etag: str
) -> web.StreamResponse:
    headers = {
        "Content-Type": media_type,
        "ETag": etag,
        "Cache-Control": _CACHED,
        "Vary": "Authorization",
    }
    response = web.Response(body=content, headers=headers)
    sending: Sending = request.app[SENDING]
    with sending.one():
        await response.prepare(request)
        await response.write_eof()
    return response
