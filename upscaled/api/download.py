"""Downloads: send a result, whole or in ranges; delete it once every byte has arrived."""

from __future__ import annotations

import logging
import re
from base64 import b64encode
from collections.abc import Mapping
from contextlib import AbstractContextManager
from email.utils import formatdate
from typing import Protocol
from urllib.parse import quote

from aiohttp import web

from upscaled.api.acknowledgement import Acknowledgement
from upscaled.api.auth import client_of
from upscaled.api.context import METRICS, SERVICE, TRANSFERS
from upscaled.api.intermediaries import passed_a_proxy
from upscaled.api.jobs import job_id_of
from upscaled.api.query import flag
from upscaled.api.responses import error_response
from upscaled.api.transfers import Span, Transfer
from upscaled.api.waiting import wait_for_end, wait_of
from upscaled.errors import StoreUnavailableError
from upscaled.jobs.content import Content
from upscaled.jobs.results import ResultFile, gone

log = logging.getLogger(__name__)

CHUNK = 256 * 1024
ACKNOWLEDGE_SECONDS = 60.0  # for the last bytes; `Connection` ends slower callers before that
SETTLE_SECONDS = 5.0

QUERY = frozenset({"wait", "keep"})


class Deletion(Protocol):
    """What deletes a result when it has arrived."""

    def downloading(self, job_id: str, /) -> AbstractContextManager[None]:
        """Return a block during which the result stays."""
        ...

    async def delivered(self, job_id: str, /, *, to_proxy: bool = False) -> None:
        """Delete a result whose every byte has arrived, at its caller or at a proxy."""
        ...


class RangeError(Exception):
    """The requested range lies outside the file."""


def wanted_span(header: str, size: int) -> Span | None:
    """Return the bytes that a ``Range`` header asks for; None if it is ignored (RFC 9110).

    A request for several ranges gets the whole file, as the RFC allows.

    Raises:
        RangeError: no byte of the file is in the range.
    """
    match = re.fullmatch(r"bytes=\s*(\d{0,19})-(\d{0,19})\s*", header, re.ASCII)
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        start, stop = max(0, size - int(match[2])), size
    else:
        start = int(match[1])
        stop = min(int(match[2]) + 1, size) if match[2] else size
        if match[2] and int(match[2]) < start:
            return None
    if start >= stop:
        raise RangeError
    return Span(start, stop)


def rest_from(header: str, span: Span) -> int | None:
    """Return where ``span`` begins if ``header`` asked for all from there; None if not."""
    return span.start if re.fullmatch(r"bytes=\s*\d+-\s*", header, re.ASCII) else None


def disposition(name: str) -> str:
    """Return the ``Content-Disposition`` that saves a download as ``name`` (RFC 6266).

    Characters that could form a path or end the header are replaced.
    """
    name = plain_name(name)
    plain = name.encode("ascii", "replace").decode().replace("?", "_")
    if plain == name:
        return f'attachment; filename="{name}"'
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def plain_name(name: str) -> str:
    """Return a file name without characters that could form a path or end a header."""
    name = name.encode("utf-8", "replace").decode()  # a lone surrogate has no UTF-8
    return re.sub(r'[\x00-\x1f\x7f/\\"<>:|?*]', "_", name).lstrip(".").strip() or "result"


async def download(request: web.Request) -> web.StreamResponse:
    """``GET /download/{job_id}``: the finished picture.

    ``?wait=30`` waits for it first; ``?keep=true`` leaves its deletion to the caller.
    """
    service = request.app[SERVICE]
    job_id = job_id_of(request)
    owner = client_of(request).owner
    wait = wait_of(request)
    keep = keep_of(request)
    await wait_for_end(request, await service.jobs.get(job_id, owner), wait)
    return await deliver(request, job_id, headers=wait.headers, keep=keep)


def keep_of(request: web.Request) -> bool:
    """Return whether the result stays after this download, until its caller deletes it.

    Raises:
        BadRequestError: ``keep`` is neither true nor false.
    """
    return flag(request, "keep")


async def deliver(
    request: web.Request,
    job_id: str,
    *,
    headers: Mapping[str, str],
    as_picture: bool = False,
    keep: bool = False,
) -> web.StreamResponse:
    """Answer with the result of a job, and delete that once every byte of it has arrived.

    A proxy may still be passing the bytes on when all have arrived there, so the result then
    stays for ``storage.grace_minutes``.

    Args:
        request: a ``GET`` may ask for a range.
        job_id: the job.
        headers: further headers of the response.
        as_picture: name the picture's own media type instead of ``application/octet-stream``.
        keep: do not delete the result.

    Raises:
        UnknownJobError: there is none of this id, or it is somebody else's.
        WrongStateError: the job is not completed.
        ResultGoneError: its result was downloaded or expired.
    """
    service, owner = request.app[SERVICE], client_of(request).owner
    await request.app[TRANSFERS].settle(job_id, SETTLE_SECONDS)
    result = await service.jobs.result(job_id, owner)
    try:
        content = await service.jobs.open(result)
    except FileNotFoundError:
        # Deleted since the look-up above. Looking it up again says why, unless a person did it.
        await service.jobs.result(job_id, owner)
        raise gone("lost") from None
    try:
        kind = result.media_type if as_picture else "application/octet-stream"
        return await hand_over(
            request, job_id, content, result, {"Content-Type": kind, **headers},
            service.jobs, keep=keep,
        )  # fmt: skip
    finally:
        await content.close()


async def hand_over(
    request: web.Request,
    job_id: str,
    content: Content,
    result: ResultFile,
    headers: Mapping[str, str],
    deletion: Deletion,
    *,
    keep: bool,
) -> web.StreamResponse:
    """Send a result, or a part of it.

    Args:
        request: may ask for a range.
        job_id: of the job or the archive.
        content: its bytes.
        result: its name and digest.
        headers: further headers of the response.
        deletion: is told when all of it has arrived.
        keep: do not delete the result.
    """
    size = content.size
    modified = formatdate(content.modified, usegmt=True)
    etag = f'"{content.version}"'
    span: Span | None = None
    wanted = request.headers.get("Range", "") if request.method in {"GET", "HEAD"} else ""
    if wanted and request.headers.get("If-Range", etag) in {etag, modified}:
        try:
            span = wanted_span(wanted, size)
        except RangeError:
            return error_response(
                f"The file has {size} bytes; the range asked for lies outside.",
                "range_not_satisfiable",
                416,
                {"Content-Range": f"bytes */{size}"},
            )
    response = web.StreamResponse(
        status=200 if span is None else 206,
        headers={
            **headers,
            "Content-Disposition": disposition(result.download_name),
            "Accept-Ranges": "bytes",
            "ETag": etag,
            # RFC 9530: of the whole file, whichever part of it this response carries.
            "Repr-Digest": f"sha-256=:{b64encode(bytes.fromhex(result.sha256)).decode()}:",
            "Last-Modified": modified,
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",  # else nginx buffers the whole file first
        },
    )
    partial = span is not None
    if span is None:
        span = Span(0, size)
    else:
        response.headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{size}"
    response.content_length = span.stop - span.start
    if request.method == "HEAD":
        await response.prepare(request)
        return response
    try:
        # Before the response begins, an error can still be answered.
        first = await content.read(span.start, min(CHUNK, span.stop - span.start))
    except EOFError:
        raise gone("lost") from None
    tracker = request.app[TRANSFERS]
    if keep:
        with deletion.downloading(job_id):
            await _send(request, response, content, first, span, Transfer(size))
        return response
    transfer = tracker.of(job_id, size)
    transfer.asked(rest_from(wanted, span) if partial else None)
    through_proxy = passed_a_proxy(request)
    transfer.through_proxy |= through_proxy
    try:
        with deletion.downloading(job_id):
            complete = await _send(request, response, content, first, span, transfer)
        if complete:
            whole = span == Span(0, size)
            to_proxy = through_proxy if whole else transfer.through_proxy
            await deletion.delivered(job_id, to_proxy=to_proxy)
            tracker.forget(job_id)  # not earlier: other requests wait for the deletion
    finally:
        transfer.settled.set()
    return response


async def _send(
    request: web.Request,
    response: web.StreamResponse,
    content: Content,
    chunk: bytes | memoryview,
    span: Span,
    transfer: Transfer,
) -> bool:
    """Send ``span`` of ``content``; return whether every byte of the file is delivered now.

    ``chunk`` is the beginning of it.
    """
    await response.prepare(request)
    acknowledgement = Acknowledgement(request.transport)
    sent = span.start
    arrived = False
    try:
        while sent < span.stop:
            if sent > span.start:
                chunk = await content.read(sent, min(CHUNK, span.stop - sent))
            if not chunk:
                raise EOFError(f"a result ended {span.stop - sent} bytes early")
            sent += len(chunk)
            if sent == span.stop and transfer.would_complete(span):
                transfer.settled.clear()
            await response.write(chunk)
        await response.write_eof()
        await acknowledgement.wait(ACKNOWLEDGE_SECONDS)
        arrived = True
    except (OSError, EOFError, StoreUnavailableError) as error:
        # The response has begun, so the connection is broken: the caller must not take what has
        # come for the whole file.
        log.info("download broken off", extra={"bytes": sent - span.start, "reason": str(error)})
        response.force_close()
        if request.transport is not None:
            request.transport.abort()
    finally:
        acknowledgement.close()
        if arrived:
            transfer.add(span)
        else:
            transfer.add_broken(Span(span.start, sent))
        if (metrics := request.app[METRICS]) is not None:
            metrics.sent_bytes += sent - span.start
    return arrived and transfer.complete
