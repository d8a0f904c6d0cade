"""Web pages of elsewhere that may call (CORS); without a list none may."""

from __future__ import annotations

from collections.abc import Collection

from aiohttp import web
from aiohttp.typedefs import Middleware

from upscaled.api.answers import Handler
from upscaled.errors import ForbiddenOriginError

_METHODS = "GET, HEAD, POST"
_HEADERS = "Authorization, X-Auth-Token, X-Request-ID, Range, If-Range"
_EXPOSED = (
    "Content-Disposition, Content-Range, ETag, Accept-Ranges, Repr-Digest, Retry-After, "
    "RateLimit, RateLimit-Policy, X-Request-ID"
)
_REMEMBER_SECONDS = "600"
_ORIGIN = web.RequestKey("origin that may call", str)


def origins_checked(allowed: Collection[str]) -> Middleware:
    """Return the middleware that lets pages of the ``allowed`` origins call, and no others.

    A browser sends a plain form to any server without asking, a local one behind the firewall
    too; what it says of itself (``Sec-Fetch-Site``) gives such a request away.
    """

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        if origin is None or origin not in allowed:
            cross = request.headers.get("Sec-Fetch-Site") == "cross-site"
            if cross and request.method == "POST":
                raise ForbiddenOriginError(
                    "Pages of other sites may not call this server; list their origin in "
                    "server.cors_origins."
                )
            return await handler(request)
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            return web.Response(
                status=204,
                headers={
                    "Access-Control-Allow-Origin": origin,
                    "Access-Control-Allow-Methods": _METHODS,
                    "Access-Control-Allow-Headers": _HEADERS,
                    "Access-Control-Max-Age": _REMEMBER_SECONDS,
                    "Vary": "Origin",
                },
            )
        request[_ORIGIN] = origin
        return await handler(request)

    return check


async def add_origin_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Let the page that called read the answer (a handler of ``on_response_prepare``)."""
    if origin := request.get(_ORIGIN):
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = _EXPOSED
        response.headers.add("Vary", "Origin")
