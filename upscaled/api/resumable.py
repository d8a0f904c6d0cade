"""Uploads that can be continued after a lost connection, before they become a job."""

from __future__ import annotations

import re
from contextlib import aclosing

from aiohttp import web

from upscaled.api import upload
from upscaled.api.auth import client_of
from upscaled.api.context import LINK_BASE, SERVICE
from upscaled.api.query import query_of
from upscaled.api.responses import json_response
from upscaled.errors import BadRequestError
from upscaled.service.resumable import ResumableUpload

QUERY = frozenset({"filename"})
_NUMBER = re.compile("[0-9]{1,15}")
_LENGTH, _OFFSET = "Upload-Length", "Upload-Offset"


async def begin(request: web.Request) -> web.Response:
    """``POST /uploads``: announce a picture; 201 with the address to send it to."""
    service = request.app[SERVICE]
    max_bytes = service.config.server.max_request_size_mb * 2**20
    length = _number(request, _LENGTH, "the picture's size in bytes")
    if length == 0:
        raise BadRequestError("The picture is empty.")
    if length > max_bytes:
        raise upload.too_large(max_bytes)
    filename = query_of(request).get("filename", "")
    begun = await service.submissions.begin_resumable(client_of(request), length, filename)
    answer = _described(request, begun, status=201)
    answer.headers["Location"] = _address(request, begun)
    return answer


async def state(request: web.Request) -> web.Response:
    """``GET`` and ``HEAD /uploads/{upload_id}``: the offset at which it continues.

    An earlier request that is still sending, over a connection that may be dead, writes no more.
    """
    found = _upload_of(request)
    await found.overtake()
    return _described(request, found)


async def append(request: web.Request) -> web.Response:
    """``PATCH /uploads/{upload_id}``: more of the picture; bytes received before a break stay."""
    service = request.app[SERVICE]
    settings = service.config.server
    max_bytes = settings.max_request_size_mb * 2**20
    found = _upload_of(request)
    if not request.can_read_body:
        raise BadRequestError(
            "The request has no body; send the bytes of the picture from Upload-Offset on."
        )
    if not upload.check_head(request, max_bytes):
        raise upload.BodyTypeError(
            "Send the bytes alone, as application/octet-stream; a form can't be continued."
        )
    offset = _number(request, _OFFSET, "the byte at which the body continues the upload")
    if offset + (request.content_length or 0) > found.length:
        raise BadRequestError(
            f"The upload is longer than its Upload-Length of {found.length} bytes."
        )
    async with aclosing(upload.body_of(request, max_bytes, settings.body_timeout_seconds)) as body:
        await service.submissions.resumable.receive(found, offset, body)
    return _described(request, found)


async def drop(request: web.Request) -> web.Response:
    """``DELETE /uploads/{upload_id}``: forget it."""
    resumable = request.app[SERVICE].submissions.resumable
    await resumable.end(request.match_info["upload_id"], client_of(request))
    return web.Response(status=204)


def _upload_of(request: web.Request) -> ResumableUpload:
    resumable = request.app[SERVICE].submissions.resumable
    return resumable.get(request.match_info["upload_id"], client_of(request))


def _number(request: web.Request, header: str, meaning: str) -> int:
    values = request.headers.getall(header, ())
    if len(values) != 1 or not _NUMBER.fullmatch(values[0].strip()):
        raise BadRequestError(f"The header {header} must come once, with {meaning}.")
    return int(values[0])


def _address(request: web.Request, found: ResumableUpload) -> str:
    return f"{request.app[LINK_BASE].of(request)}/uploads/{found.id}"


def _described(request: web.Request, found: ResumableUpload, status: int = 200) -> web.Response:
    return json_response(
        {
            "upload_id": found.id,
            "upload_url": _address(request, found),
            "offset": found.offset,
            "length": found.length,
        },
        status=status,
        headers={
            _OFFSET: str(found.offset),
            _LENGTH: str(found.length),
            "Cache-Control": "no-store",
        },
    )
