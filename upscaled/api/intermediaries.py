"""Whether a request came through a proxy."""

from __future__ import annotations

from aiohttp import HttpVersion11, web

_HEADERS = (
    "X-Forwarded-For",
    "Via",
    "Forwarded",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Forwarded-Prefix",
    "X-Real-IP",
)


def passed_a_proxy(request: web.Request) -> bool:
    """Tell whether the request seems to have come through a proxy.

    The headers may be false: they only make the server more careful. Proxies that add none of them
    often speak HTTP/1.0, as nginx and lighttpd do by default.
    """
    return request.version < HttpVersion11 or any(name in request.headers for name in _HEADERS)
