"""All results in one archive, made while it is sent."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable

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
from upscaled.api.query import flag, query_of
from upscaled.api.zip_stream import UniqueNames, ZipStream
from upscaled.errors import (
    BadRequestError,
    ResultGoneError,
    StoreUnavailableError,
    UnknownJobError,
)
from upscaled.jobs.job import JobState, is_job_id
from upscaled.jobs.results import ResultFile, gone
from upscaled.jobs.store import JobFilter
from upscaled.service.service import Service

log = logging.getLogger(__name__)

MOST_JOBS = 300
"""As many ids as fit into an address of 8 KiB, less some for the rest of it."""
_PAGE = 200  # jobs that are looked up at a time
QUERY = frozenset({"job_ids", "all", "keep"})
_Chosen = tuple[str, ResultFile]
"""The id of a job, and its result."""


async def results(request: web.Request) -> web.StreamResponse:
    """``GET /results?job_ids=…`` or ``?all=true``: the results of jobs as a ZIP archive.

    Each is counted as downloaded once the whole archive has arrived.
    """
    service, keep = request.app[SERVICE], keep_of(request)
    select = _all if flag(request, "all") else _named
    with contextlib.ExitStack() as held:
        async with contextlib.aclosing(select(request, held)) as chosen:
            first = await anext(chosen, None)
            if first is None:
                raise UnknownJobError("There is no completed job whose result is still there.")
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
            sent: list[str] = []
            with request.app[TRANSFERS].together(() if keep else sent) as before_last:
                archive = _archive(service, first, chosen, sent)
                arrived = await _send(request, response, archive, before_last)
                held.close()
                if arrived and not keep:
                    for job_id in sent:
                        await service.jobs.delivered(job_id, to_proxy=passed_a_proxy(request))
            return response


async def _named(request: web.Request, held: contextlib.ExitStack) -> AsyncGenerator[_Chosen, None]:
    """Yield the results of the jobs that the query names; the first when all are there.

    ``held`` keeps them from the end of their grace period.

    Raises:
        BadRequestError: see `_job_ids`.
        UnknownJobError: one is unknown.
        ResultGoneError: the result of one is gone.
    """
    service, owner = request.app[SERVICE], client_of(request).owner
    found = []
    for job_id in _job_ids(request):
        await request.app[TRANSFERS].settle(job_id, SETTLE_SECONDS)
        found.append((job_id, await service.jobs.result(job_id, owner)))
    if not await service.jobs.are_there([result for _, result in found]):
        raise gone("lost")
    for job_id, _ in found:
        held.enter_context(service.jobs.downloading(job_id))
    for one in found:
        yield one


async def _all(request: web.Request, held: contextlib.ExitStack) -> AsyncGenerator[_Chosen, None]:
    """Yield all results of the caller that are there, the newest first; a page is in memory.

    ``held`` keeps each from the end of its grace period.

    Raises:
        BadRequestError: the query names jobs too.
        HTTPNotFound: ``features.job_lists`` is off, so a caller must name each job.
    """
    service, owner = request.app[SERVICE], client_of(request).owner
    if not service.config.features.job_lists:
        raise web.HTTPNotFound
    if "job_ids" in query_of(request):
        raise BadRequestError("all and job_ids were sent; send one of them.")
    wanted = JobFilter(owner, JobState.COMPLETED)
    after: tuple[float, str] | None = None
    while page := await service.jobs.page(wanted, after, _PAGE):
        for job in page:
            await request.app[TRANSFERS].settle(job.id, SETTLE_SECONDS)
            with contextlib.suppress(UnknownJobError, ResultGoneError):
                found = await service.jobs.result(job.id, owner)
                if await service.jobs.are_there([found]):
                    held.enter_context(service.jobs.downloading(job.id))
                    yield job.id, found
        after = page[-1].created, page[-1].id


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
            f"job_ids has {len(job_ids)} ids; it must have 1 to {MOST_JOBS}, separated by commas. "
            "Send all=true for all results."
        )
    if len(set(job_ids)) < len(job_ids):
        raise BadRequestError("job_ids has an id twice; send it once.")
    if not all(is_job_id(job_id) for job_id in job_ids):
        raise UnknownJobError("There is no job with one of these ids; ids are 19 digits.")
    return job_ids


async def _send(
    request: web.Request,
    response: web.StreamResponse,
    archive: AsyncGenerator[bytes, None],
    before_last: Callable[[], None],
) -> bool:
    """Send the archive; return whether all of it arrived. Its last bytes follow ``before_last``."""
    await response.prepare(request)
    acknowledgement = Acknowledgement(request.transport)
    try:
        last = b""
        async with contextlib.aclosing(archive):
            async for piece in archive:
                await response.write(last)
                last = piece
        before_last()
        await response.write(last)
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
    service: Service, first: _Chosen, others: AsyncIterator[_Chosen], sent: list[str]
) -> AsyncGenerator[bytes, None]:
    """Yield the archive; one file is open at a time. The ids of what it has are added to ``sent``.

    Raises:
        OSError: a file can't be read, or was deleted meanwhile.
        EOFError: one is shorter than it was.
    """
    archive, names = ZipStream(), UniqueNames()
    one: _Chosen | None = first
    while one is not None:
        job_id, result = one
        content = await service.jobs.open(result)
        try:
            yield archive.begin(names.of(plain_name(result.download_name)), content.size)
            read = 0
            while read < content.size:
                chunk = await content.read(read, min(CHUNK, content.size - read))
                if not chunk:
                    raise EOFError(f"a result ended {content.size - read} bytes early")
                read += len(chunk)
                yield archive.add(chunk)
            yield archive.end_file()
        finally:
            await content.close()
        sent.append(job_id)
        one = await anext(others, None)
    yield archive.end()
