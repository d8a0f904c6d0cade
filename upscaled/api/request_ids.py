"""Request ids: what ties a caller's log, a proxy's and ours together."""

from __future__ import annotations

import re
import secrets

from aiohttp import web

from upscaled.api.answers import Handler
from upscaled.logs import request_id

HEADER = "X-Request-ID"

_SANE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+/=-]{0,127}")
_ID = web.RequestKey("request_id", str)


def id_of(request: web.Request) -> str:
    """Return the id the caller or a proxy gave a request, or a fresh one.

    What could not be told from log text, or is too long for it, is no id.
    """
    given = request.headers.getall(HEADER, [])
    if len(given) == 1 and _SANE.fullmatch(given[0]):
        return given[0]
    return secrets.token_hex(16)


@web.middleware
async def request_id_known(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request its id; every event logged on its behalf carries it."""
    request[_ID] = id_of(request)
    before = request_id.set(request[_ID])
    try:
        return await handler(request)
    finally:
        request_id.reset(before)


async def add_request_id(request: web.Request, response: web.StreamResponse) -> None:
    """Put the id on the answer (a handler of ``on_response_prepare``)."""
    if (known := request.get(_ID)) is not None:
        response.headers[HEADER] = known
