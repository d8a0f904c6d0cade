"""Who calls, and whether they may: everybody, or whoever knows a token."""

from __future__ import annotations

from collections.abc import Collection

from aiohttp import web
from aiohttp.typedefs import Middleware

from upscaled.api.answers import Handler
from upscaled.api.keys import CLIENT
from upscaled.clients import Client, Proxies, Tokens, share_of
from upscaled.errors import UnauthorizedError


def client_of(request: web.Request) -> Client:
    """Return who sent the request."""
    return request[CLIENT]


def _presented(request: web.Request) -> list[str]:
    """Return the tokens a request carries."""
    found = []
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        found.append(token.strip())
    if "X-Auth-Token" in request.headers:
        found.append(request.headers["X-Auth-Token"].strip())
    return [token for token in found if token]


def callers_known(tokens: Tokens, proxies: Proxies, open_paths: Collection[str]) -> Middleware:
    """Return the middleware that finds out who calls.

    Where there are tokens, it asks for one everywhere but at and below ``open_paths``.
    """

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        address = proxies.address_of(request.remote, request.headers.getall("X-Forwarded-For", []))
        if not tokens:
            request[CLIENT] = Client("", share_of(address))
            return await handler(request)
        presented = _presented(request)
        owner = tokens.owner(presented)
        request[CLIENT] = Client(owner or "", f"token {owner}" if owner else share_of(address))
        is_open = any(
            request.path == path or request.path.startswith(path + "/") for path in open_paths
        )
        if owner is not None or is_open:
            return await handler(request)
        if not presented:
            raise UnauthorizedError(
                "This server asks for a token: send it as `Authorization: Bearer …` "
                "or as `X-Auth-Token`."
            )
        raise UnauthorizedError("The token is not the right one.")

    return check
