"""Who calls, and whether they may: everybody, or whoever knows a token."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import lru_cache

from aiohttp import web

from upscaled.api.keys import CALL
from upscaled.clients import Client, Proxies, Tokens, share_of
from upscaled.errors import UnauthorizedError

_REMEMBERED = 4096  # addresses


def client_of(request: web.Request) -> Client:
    """Return who sent the request."""
    return request[CALL].client


def _presented(request: web.Request) -> list[str]:
    """Return the tokens a request carries."""
    found = []
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        found.append(token.strip())
    if "X-Auth-Token" in request.headers:
        found.append(request.headers["X-Auth-Token"].strip())
    return [token for token in found if token]


class Callers:
    """Tells who calls; where there are tokens, nobody may without one.

    Args:
        tokens: those that open the server; with none it is open to all.
        proxies: whose word is taken for whom they speak for.
        open_paths: what needs no token, nor does what is below.
    """

    def __init__(self, tokens: Tokens, proxies: Proxies, open_paths: Collection[str]) -> None:
        self._tokens = tokens
        self._proxies = proxies
        self._open = tuple(open_paths)
        self._below = tuple(path + "/" for path in open_paths)
        self._direct = lru_cache(_REMEMBERED)(self._at)

    def caller(self, request: web.Request) -> Client:
        """Return who sent a request.

        Raises:
            UnauthorizedError: they may not.
        """
        # Most come directly and again and again. Those of proxies are not remembered: what the
        # header says may be long, and different in every request.
        forwarded = request.headers.getall("X-Forwarded-For", ())
        peer = request.remote
        anybody = self._at(peer, forwarded) if forwarded else self._direct(peer)
        if not self._tokens:
            return anybody
        presented = _presented(request)
        owner = self._tokens.owner(presented)
        if owner is not None:
            return Client(owner, f"token {owner}" if owner else anybody.key)
        path = request.path
        if path in self._open or path.startswith(self._below):
            return anybody
        if not presented:
            raise UnauthorizedError(
                "This server asks for a token: send it as `Authorization: Bearer …` "
                "or as `X-Auth-Token`."
            )
        raise UnauthorizedError("The token is not the right one.")

    def _at(self, peer: str | None, forwarded: Iterable[str] = ()) -> Client:
        """Return the client without a token behind a connection."""
        return Client("", share_of(self._proxies.address_of(peer, forwarded)))
