"""The query parameters of a request."""

from __future__ import annotations

from aiohttp import web
from multidict import MultiDict, MultiMapping

from upscaled.errors import BadRequestError

_NONE: MultiMapping[str] = MultiDict()


def query_of(request: web.Request) -> MultiMapping[str]:
    """Return the query parameters that have a value; an empty one counts as not given."""
    if not request.query_string:
        return _NONE
    if "" not in request.query.values():
        return request.query
    return MultiDict((name, value) for name, value in request.query.items() if value)


def flag(request: web.Request, name: str) -> bool:
    """Return whether the query parameter ``name`` is true; without it, it is not.

    Raises:
        BadRequestError: it is neither true nor false.
    """
    text = ", ".join(query_of(request).getall(name, ["false"])).lower()
    if text not in {"true", "1", "false", "0"}:
        raise BadRequestError(f"{name} is {text[:64]!r}; it must be true or false.")
    return text in {"true", "1"}
