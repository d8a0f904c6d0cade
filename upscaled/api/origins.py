"""Requests of web pages: which pages may change something, and which may read (CORS)."""

from __future__ import annotations

from collections.abc import Collection

from aiohttp import web

from upscaled.api.hosts import HostPolicy
from upscaled.errors import ForbiddenOriginError

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
_HEADERS = (
    "Authorization, Content-Type, Prefer, Idempotency-Key, X-Auth-Token, X-Request-ID, Range, "
    "If-Range, Upload-Length, Upload-Offset"
)
_EXPOSED = (
    "Content-Disposition, Content-Location, Content-Range, ETag, Location, Preference-Applied, "
    "Upscaled-Result, Idempotent-Replayed, Accept-Ranges, Repr-Digest, Retry-After, "
    "RateLimit, RateLimit-Policy, Upload-Length, Upload-Offset, X-Request-ID"
)
_PREFLIGHT_SECONDS = "600"


class OriginPolicy:
    """Decides which web pages may call.

    A browser sends a plain form of any page to any server, also to one behind a firewall. Two
    headers that pages cannot set give such a request away: ``Origin`` and ``Sec-Fetch-Site``.
    Programs such as curl send neither.

    Args:
        allowed: origins of other sites whose pages may call.
        hosts: knows the server's own names.
    """

    def __init__(self, allowed: Collection[str], hosts: HostPolicy) -> None:
        self._allowed = frozenset(allowed)
        self._hosts = hosts

    def check(self, request: web.Request) -> str | None:
        """Return the origin whose page may read the response, None if that is no other site.

        Raises:
            ForbiddenOriginError: a page of another site wants to change something.
        """
        origin = request.headers.get("Origin")
        if origin in self._allowed:
            return origin
        if request.method not in _READING and self._is_foreign(request, origin):
            raise ForbiddenOriginError(
                f"A page of {(origin or 'another site')[:200]} may not call this server; list its "
                "origin in server.cors_origins. If it is this server's own page behind a proxy, "
                "list the proxy in server.trusted_proxies and let it send X-Forwarded-Host, or "
                "list the public name in server.allowed_hosts."
            )
        return None

    def _is_foreign(self, request: web.Request, origin: str | None) -> bool:
        site = request.headers.get("Sec-Fetch-Site")
        if site in {"same-origin", "none"}:
            # Set by the browser. It knows the address that the page came from, also where a
            # proxy changes Host or a referrer policy turns Origin into "null".
            return False
        if origin is None:
            return site is not None
        return site == "cross-site" or not self._hosts.is_own_origin(request, origin)


def is_preflight(request: web.Request) -> bool:
    """Tell whether a browser asks if a page may call."""
    return request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers


def preflight_response(origin: str) -> web.Response:
    """Return the response that allows a page to call."""
    return web.Response(
        status=204,
        headers={
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Methods": _METHODS,
            "Access-Control-Allow-Headers": _HEADERS,
            "Access-Control-Max-Age": _PREFLIGHT_SECONDS,
            "Vary": "Origin",
        },
    )


def add_cors_headers(origin: str, response: web.StreamResponse) -> None:
    """Let a page of ``origin`` read a response."""
    response.headers["Access-Control-Allow-Origin"] = origin
    response.headers["Access-Control-Expose-Headers"] = _EXPOSED
    response.headers.add("Vary", "Origin")
