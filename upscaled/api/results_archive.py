"""All results in one archive, made while it is sent."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable

from aiohttp import web

from upscaled.api.acknowledgement import Acknowledgement
from upscaled.api.auth import client_of
from upscaled.api.context import SERVICE, TRANSFERS
from upscaled.api.download import (
    ACKNOWLEDGE_SECONDS,
    CHUNK,
    SETTLE_SECONDS,
    disposition,
    keep_of,
    plain_name,
)
from upscaled.api.intermediaries import passed_a_proxy
from upscaled.api.query import query_of
from upscaled.api.zip_stream import ZipStream, unique_names
from upscaled.errors import BadRequestError, StoreUnavailableError, UnknownJobError
from upscaled.jobs.job import is_job_id
from upscaled.jobs.results import ResultFile, gone
from upscaled.service.service import Service

log = logging.getLogger(__name__)

MOST_JOBS = 300
"""As many ids as fit into an address of 8 KiB, less some for the rest of it."""
QUERY = frozenset({"job_ids", "keep"})


async def results(request: web.Request) -> web.StreamResponse:
    """``GET /results?job_ids=…``: the results of several jobs as a ZIP archive.

    Each is counted as downloaded once the whole archive has arrived.
    """
    service, owner = request.app[SERVICE], client_of(request).owner
    job_ids, keep = _job_ids(request), keep_of(request)
    found = []
    for job_id in job_ids:
        await request.app[TRANSFERS].settle(job_id, SETTLE_SECONDS)
        found.append(await service.jobs.result(job_id, owner))
    if not await service.jobs.are_there(found):
        raise gone("lost")
    response = web.StreamResponse(
        headers={
            "Content-Type": "application/zip",
            "Content-Disposition": disposition("upscaled.zip"),
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
        }
    )
    if request.method == "HEAD":
        await response.prepare(request)
        return response
    deleted = [] if keep else job_ids
    with request.app[TRANSFERS].together(deleted) as before_last:
        with contextlib.ExitStack() as held:
            for job_id in job_ids:
                held.enter_context(service.jobs.downloading(job_id))
            arrived = await _send(request, response, found, before_last)
        if arrived:
            for job_id in deleted:
                await service.jobs.delivered(job_id, to_proxy=passed_a_proxy(request))
    return response


def _job_ids(request: web.Request) -> list[str]:
    """Return the ids in the query's ``job_ids``.

    Raises:
        BadRequestError: there are none, too many, or one twice.
        UnknownJobError: one does not look like an id.
    """
    text = ",".join(query_of(request).getall("job_ids", []))
    job_ids = [part.strip() for part in text.split(",") if part.strip()]
    if not 1 <= len(job_ids) <= MOST_JOBS:
        raise BadRequestError(
            f"job_ids has {len(job_ids)} ids; it must have 1 to {MOST_JOBS}, separated by commas."
        )
    if len(set(job_ids)) < len(job_ids):
        raise BadRequestError("job_ids has an id twice; send it once.")
    if not all(is_job_id(job_id) for job_id in job_ids):
        raise UnknownJobError("There is no job with one of these ids; ids are 19 digits.")
    return job_ids


async def _send(
    request: web.Request,
    response: web.StreamResponse,
    found: list[ResultFile],
    before_last: Callable[[], None],
) -> bool:
    """Send the archive; return whether all of it arrived."""
    await response.prepare(request)
    acknowledgement = Acknowledgement(request.transport)
    try:
        async for piece in _archive(request.app[SERVICE], found, before_last):
            await response.write(piece)
        await response.write_eof()
        await acknowledgement.wait(ACKNOWLEDGE_SECONDS)
    except (OSError, EOFError, StoreUnavailableError) as error:
        log.info("archive broken off", extra={"reason": str(error)})
        response.force_close()
        if request.transport is not None:
            request.transport.abort()
        return False
    finally:
        acknowledgement.close()
    return True


async def _archive(
    service: Service, found: list[ResultFile], before_last: Callable[[], None]
) -> AsyncIterator[bytes]:
    """Yield the archive; one file is open at a time. Before its last bytes call ``before_last``.

    Raises:
        OSError: a file can't be read, or was deleted meanwhile.
        EOFError: one is shorter than it was.
    """
    archive = ZipStream()
    names = unique_names([plain_name(one.download_name) for one in found])
    for one, name in zip(found, names, strict=True):
        content = await service.jobs.open(one)
        try:
            yield archive.begin(name, content.size)
            sent = 0
            while sent < content.size:
                chunk = await content.read(sent, min(CHUNK, content.size - sent))
                if not chunk:
                    raise EOFError(f"a result ended {content.size - sent} bytes early")
                sent += len(chunk)
                yield archive.add(chunk)
            yield archive.end_file()
        finally:
            await content.close()
    before_last()
    yield archive.end()
