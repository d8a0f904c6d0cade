"""The query parameters of a request."""

from __future__ import annotations

from aiohttp import web
from multidict import MultiDict, MultiMapping

_NONE: MultiMapping[str] = MultiDict()


def query_of(request: web.Request) -> MultiMapping[str]:
    """Return the query parameters that have a value; an empty one counts as not given."""
    if not request.query_string:
        return _NONE
    if "" not in request.query.values():
        return request.query
    return MultiDict((name, value) for name, value in request.query.items() if value)
