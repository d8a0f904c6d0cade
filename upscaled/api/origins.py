"""Web pages of elsewhere that may call (CORS); without a list none may."""

from __future__ import annotations

from collections.abc import Collection

from aiohttp import web

from upscaled.errors import ForbiddenOriginError

_METHODS = "GET, HEAD, POST"
_HEADERS = "Authorization, X-Auth-Token, X-Request-ID, Range, If-Range"
_EXPOSED = (
    "Content-Disposition, Content-Range, ETag, Accept-Ranges, Repr-Digest, Retry-After, "
    "RateLimit, RateLimit-Policy, X-Request-ID"
)
_REMEMBER_SECONDS = "600"


class Origins:
    """The origins whose pages may call, and no others.

    A browser sends a plain form to any server without asking, a local one behind the firewall
    too; what it says of itself (``Sec-Fetch-Site``) gives such a request away.
    """

    def __init__(self, allowed: Collection[str]) -> None:
        self._allowed = frozenset(allowed)

    def allowed(self, request: web.Request) -> str | None:
        """Return the origin of the page that sent a request, None if it is not one of ours.

        Raises:
            ForbiddenOriginError: a page of elsewhere wants something done.
        """
        headers = request.headers
        origin = headers.get("Origin")
        if origin in self._allowed:
            return origin
        if request.method == "POST" and headers.get("Sec-Fetch-Site") == "cross-site":
            raise ForbiddenOriginError(
                "Pages of other sites may not call this server; list their origin in "
                "server.cors_origins."
            )
        return None


def asks_first(request: web.Request) -> bool:
    """Tell whether a page's browser only asks whether it may call (a preflight)."""
    return request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers


def permission(origin: str) -> web.Response:
    """Return the answer to such a question: it may."""
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


def let_read(origin: str, response: web.StreamResponse) -> None:
    """Let the page that called read an answer."""
    response.headers["Access-Control-Allow-Origin"] = origin
    response.headers["Access-Control-Expose-Headers"] = _EXPOSED
    response.headers.add("Vary", "Origin")
