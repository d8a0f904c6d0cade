"""A caller's own jobs: list them page by page, delete one."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from aiohttp import web

from upscaled.api.auth import client_of
from upscaled.api.context import LINK_BASE, SERVICE, STATUS_RENDERER
from upscaled.api.jobs import job_id_of
from upscaled.api.query import query_of
from upscaled.api.responses import json_body_response
from upscaled.errors import BadRequestError
from upscaled.jobs.job import JobState
from upscaled.jobs.store import JobFilter

_USUAL_LIMIT = 50
_LARGEST_LIMIT = 200
QUERY = frozenset(
    {"state", "model", "client_ref", "created_after", "created_before", "cursor", "limit"}
)


async def jobs(request: web.Request) -> web.Response:
    """``GET /jobs``: the caller's jobs, newest first, a page at a time."""
    query = query_of(request)
    for name in query:
        if len(query.getall(name)) > 1:
            raise BadRequestError(f"The query parameter {name} was sent twice; send it once.")
    wanted = JobFilter(
        client_of(request).owner,
        _state(query),
        query.get("model"),
        query.get("client_ref"),
        _moment(query, "created_after"),
        _moment(query, "created_before"),
    )
    limit = _limit(query)
    # One more than is shown tells whether there is a next page.
    found = await request.app[SERVICE].jobs.page(wanted, cursor_of(query), limit + 1)
    base, renderer = request.app[LINK_BASE].of(request), request.app[STATUS_RENDERER]
    shown = found[:limit]
    rows = [b'%b,"created":%a}' % (renderer.render(job, base)[:-1], job.created) for job in shown]
    more = b""
    if len(found) > limit:
        more = b',"next_cursor":"%a_%b"' % (shown[-1].created, shown[-1].id.encode())
    return json_body_response(b'{"jobs":[%b]%b}' % (b",".join(rows), more))


async def delete(request: web.Request) -> web.Response:
    """``DELETE /jobs/{job_id}``: delete an ended job, its record and its files."""
    await request.app[SERVICE].jobs.delete(job_id_of(request), client_of(request).owner)
    return web.Response(status=204)


def _refusal(name: str, text: str, allowed: str) -> BadRequestError:
    return BadRequestError(f"{name} is {text[:64]!r}; it must be {allowed}.")


def _state(query: Mapping[str, str]) -> JobState | None:
    text = query.get("state")
    if text is not None and text not in set(JobState):
        raise _refusal("state", text, f"one of {', '.join(JobState)}")
    return None if text is None else JobState(text)


def _moment(query: Mapping[str, str], name: str) -> float | None:
    text = query.get(name)
    if text is None:
        return None
    if re.fullmatch("[0-9]{1,12}([.][0-9]{1,9})?", text) is None:
        raise _refusal(name, text, "a number of seconds since 1970")
    return float(text)


def _limit(query: Mapping[str, str]) -> int:
    text = query.get("limit", str(_USUAL_LIMIT))
    if re.fullmatch("[0-9]{1,3}", text) is None or not 1 <= int(text) <= _LARGEST_LIMIT:
        raise _refusal("limit", text, f"between 1 and {_LARGEST_LIMIT}")
    return int(text)


def cursor_of(query: Mapping[str, str]) -> tuple[float, str] | None:
    """Return the moment and the id that the query's ``cursor`` names.

    Raises:
        BadRequestError: it is none.
    """
    text = query.get("cursor")
    if text is None:
        return None
    match = re.fullmatch("([0-9.e+]{1,32})_([0-9]{19})", text)
    try:
        moment = float(match[1]) if match else math.nan
    except ValueError:
        moment = math.nan
    if match is None or not math.isfinite(moment):
        raise _refusal("cursor", text, "the next_cursor of another page")
    return moment, match[2]
