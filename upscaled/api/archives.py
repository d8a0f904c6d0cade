"""Archives: their pages are upscaled, and the new archive is downloaded."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from upscaled.api import upload
from upscaled.api.auth import client_of
from upscaled.api.connections import wait_while_connected
from upscaled.api.context import LINK_BASE, SERVICE, TRANSFERS
from upscaled.api.download import SETTLE_SECONDS, hand_over, keep_of
from upscaled.api.events import HEARTBEAT_SECONDS, last_event_id, stream
from upscaled.api.form_reader import ARCHIVE
from upscaled.api.job_list import cursor_of
from upscaled.api.query import query_of
from upscaled.api.responses import compact, json_response
from upscaled.api.waiting import NO_WAIT, Wait, parse_wait, preferred_wait, wait_of
from upscaled.errors import BadRequestError, UnknownArchiveError
from upscaled.jobs.archive_description import described
from upscaled.jobs.archive_records import ArchiveRecord, PageRecord
from upscaled.jobs.content import FileContent
from upscaled.jobs.results import gone
from upscaled.pictures import Size
from upscaled.service import archive_admission
from upscaled.service.archives import Archives
from upscaled.service.idempotency import parse_key

FIELD_NAMES = (*archive_admission.FIELD_NAMES, "wait")
PAGED = frozenset({"cursor", "limit"})
_MOST = 1000
"""The most pages or archives of one answer."""
_USUAL = 100
_EVENTS_AT_ONCE = 100


async def begin(request: web.Request) -> web.Response:
    """``POST /archives``: take an archive; 202 with its id."""
    client = client_of(request)
    service = request.app[SERVICE]
    archives = service.archives
    key = parse_key(request.headers.getall("Idempotency-Key", ()))
    headers: dict[str, str] = {}
    async with service.submissions.keys.claim(client.owner, key) as claim:
        earlier = None if claim is None else claim.earlier
        if earlier is None:
            archives.check_room(client)
        async with upload.received(
            request, FIELD_NAMES, queues=False, payload=ARCHIVE, max_bytes=archives.max_bytes
        ) as form:
            fields = dict(form.fields)
            text = fields.pop("wait", None)
            wait = parse_wait(text) if text else preferred_wait(request) or NO_WAIT
            if claim is not None and earlier is not None:
                record = await archives.repeated(claim, earlier, fields, form.sha256)
                headers["Idempotent-Replayed"] = "true"
            else:
                record = await archives.begin(
                    fields, form.path, form.filename or "", client,
                    sha256=form.sha256, links_base=request.app[LINK_BASE].of(request), claim=claim,
                )  # fmt: skip
    record = await _waited(request, record, wait)
    shown = _described(request, record)
    headers |= {**wait.headers, "Location": str(shown["status_url"])}
    status = 200 if record.ended else 202
    return json_response({"success": True, **shown}, status=status, headers=headers)


async def listing(request: web.Request) -> web.Response:
    """``GET /archives``: the caller's archives, newest first."""
    if not request.app[SERVICE].config.features.job_lists:
        raise web.HTTPNotFound
    query = query_of(request)
    limit = _limit(query)
    owner = client_of(request).owner
    # One more than is shown tells whether there is a next page.
    found = await request.app[SERVICE].archives.page(owner, cursor_of(query), limit + 1)
    rows = [_described(request, record) for record in found[:limit]]
    shown: dict[str, Any] = {"archives": rows}
    if len(found) > limit:
        shown["next_cursor"] = f"{found[limit - 1].created!r}_{found[limit - 1].id}"
    return json_response(shown)


async def status(request: web.Request) -> web.Response:
    """``GET /archives/{archive_id}``; ``?wait=30`` answers when it ends, after 30 s at most."""
    wait = wait_of(request)
    record = await _record_of(request)
    record = await _waited(request, record, wait)
    return json_response(_described(request, record), headers=wait.headers)


async def pages(request: web.Request) -> web.Response:
    """``GET /archives/{archive_id}/pages``: the state of each page."""
    record = await _record_of(request)
    query = query_of(request)
    limit, cursor = _limit(query), query.get("cursor") or "0"
    if not re.fullmatch("[0-9]{1,6}", cursor):
        raise BadRequestError(
            f"cursor is {cursor[:64]!r}; it must be the next_cursor of another page."
        )
    after = int(cursor)
    found = await request.app[SERVICE].archives.pages(record, after, limit)
    shown: dict[str, Any] = {
        "archive_id": record.id,
        "pages_total": record.pages,
        "pages": [_page(page) for page in found],
    }
    if len(found) == limit and found[-1].number < record.pages:
        shown["next_cursor"] = str(found[-1].number)
    return json_response(shown)


async def events(request: web.Request) -> web.StreamResponse:
    """``GET /archives/{archive_id}/events``: an event for each finished page, then the end.

    The id of a page's event is twice its number, that of the end is one more than the last one.
    """
    archives, record = request.app[SERVICE].archives, await _record_of(request)
    last = last_event_id(request)
    if last is not None and last % 2 and record.ended:
        return web.Response(status=204)  # tells an EventSource not to connect again
    owner = client_of(request).owner

    async def send(response: web.StreamResponse) -> None:
        offset, skip = 0, 0 if last is None else last // 2
        if last is None:
            await response.write(_event(b"update", None, _described(request, record)))
        while True:
            news = archives.news(record.id)
            try:
                now = await archives.get(record.id, owner)
            except UnknownArchiveError:  # it was deleted
                return
            while True:
                found, offset = await archives.done_pages(
                    record.id, offset, skip=skip, limit=_EVENTS_AT_ONCE
                )
                skip = 0 if found else skip
                for page in found:
                    told = {"archive_id": record.id, "pages_total": record.pages, **_page(page)}
                    await response.write(_event(b"page", 2 * page.number, told))
                if len(found) < _EVENTS_AT_ONCE:
                    break
            if now.ended:
                await response.write(_event(b"update", 2 * now.done + 1, _described(request, now)))
                return
            if news is not None:
                try:
                    async with asyncio.timeout(HEARTBEAT_SECONDS):
                        await news.wait()
                except TimeoutError:
                    await response.write(b":\n\n")

    return await stream(request, send, f"archive-{record.id}")


def _event(name: bytes, number: int | None, content: Mapping[str, Any]) -> bytes:
    told = b"" if number is None else b"id: %d\n" % number
    return b"%bevent: %b\ndata: %b\n\n" % (told, name, compact(content))


async def download(request: web.Request) -> web.StreamResponse:
    """``GET /archives/{archive_id}/download``: the new archive, see ``GET /download/{job_id}``."""
    archives, owner = request.app[SERVICE].archives, client_of(request).owner
    archive_id, wait, keep = request.match_info["archive_id"], wait_of(request), keep_of(request)
    await _waited(request, await _record_of(request), wait)
    await request.app[TRANSFERS].settle(archive_id, SETTLE_SECONDS)
    result = archives.results.of(await archives.get(archive_id, owner))
    try:
        content = await FileContent.open(result.path)
    except FileNotFoundError:
        # Deleted since the look-up above. Looking it up again says why.
        archives.results.of(await archives.get(archive_id, owner))
        raise gone("lost", "archive") from None
    try:
        headers = {"Content-Type": "application/octet-stream", **wait.headers}
        return await hand_over(
            request, archive_id, content, result, headers, archives.results, keep=keep
        )
    finally:
        await content.close()


async def delete(request: web.Request) -> web.Response:
    """``DELETE /archives/{archive_id}``: cancel it if it is under way, and delete it."""
    archive_id = request.match_info["archive_id"]
    await request.app[SERVICE].archives.delete(archive_id, client_of(request).owner)
    return web.Response(status=204)


async def _record_of(request: web.Request) -> ArchiveRecord:
    owner = client_of(request).owner
    return await request.app[SERVICE].archives.get(request.match_info["archive_id"], owner)


async def _waited(request: web.Request, record: ArchiveRecord, wait: Wait) -> ArchiveRecord:
    """Return the archive when it has ended or the time is over."""
    archives: Archives = request.app[SERVICE].archives
    if not wait.seconds or record.ended:
        return record
    ended = asyncio.create_task(archives.wait(record.id), name=f"wait-archive-{record.id}")
    await wait_while_connected(request, ended, wait.seconds)
    return await archives.get(record.id, client_of(request).owner)


def _limit(query: Mapping[str, str]) -> int:
    text = query.get("limit") or str(_USUAL)
    if not re.fullmatch("[0-9]{1,4}", text) or not 1 <= int(text) <= _MOST:
        raise BadRequestError(f"limit is {text[:64]!r}; it must be between 1 and {_MOST}.")
    return int(text)


def _described(request: web.Request, record: ArchiveRecord) -> dict[str, Any]:
    return described(record, request.app[LINK_BASE].of(request))


def _page(page: PageRecord) -> dict[str, Any]:
    """Return a page as callers see it."""
    shown: dict[str, Any] = {
        "number": page.number,
        "name": page.name,
        "status": page.state.value,
        "progress": page.progress,
    }
    facts = {
        "input_size": _size(page.input_size),
        "output_size": _size(page.output_size),
        "device": page.device,
        "error": page.error,
        "code": page.code,
    }
    return shown | {name: value for name, value in facts.items() if value is not None}


def _size(size: Size | None) -> dict[str, int] | None:
    return None if size is None else {"width": size.width, "height": size.height}
