"""Who may call: everybody, or whoever knows the token."""

from __future__ import annotations

import hmac
from collections.abc import Collection

from aiohttp import web
from aiohttp.typedefs import Middleware

from upscaled.api.answers import Handler
from upscaled.errors import UnauthorizedError


def _presented(request: web.Request) -> list[str]:
    """Return the tokens a request carries."""
    found = []
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        found.append(token.strip())
    if "X-Auth-Token" in request.headers:
        found.append(request.headers["X-Auth-Token"].strip())
    return [token for token in found if token]


def token_required(token: str, open_paths: Collection[str]) -> Middleware:
    """Return the middleware that asks for ``token`` everywhere but below ``open_paths``."""
    secret = token.encode()

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if any(request.path == path or request.path.startswith(path + "/") for path in open_paths):
            return await handler(request)
        presented = _presented(request)
        if not presented:
            raise UnauthorizedError(
                "This server asks for a token: send it as `Authorization: Bearer …` "
                "or as `X-Auth-Token`."
            )
        if not any(
            hmac.compare_digest(secret, one.encode("utf-8", "surrogateescape")) for one in presented
        ):
            raise UnauthorizedError("The token is not the right one.")
        return await handler(request)

    return check
