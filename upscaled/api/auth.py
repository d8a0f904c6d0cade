"""Authentication: who calls, and whether they may."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import lru_cache

from aiohttp import web

from upscaled.api.context import CONTEXT
from upscaled.api.rate_limit import RateLimit
from upscaled.callers import Caller, Proxies, Tokens, share_of
from upscaled.errors import UnauthorizedError

_CACHED = 4096  # addresses
WRONG_TOKENS_PER_MINUTE = 10
"""Wrong tokens of one address in a minute; more are answered with 429. The right token is never
refused."""


def client_of(request: web.Request) -> Caller:
    """Return the caller of a request that the middleware has let through."""
    return request[CONTEXT].client


def presented(request: web.Request) -> list[str]:
    """Return the tokens that a request carries."""
    found = []
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        found.append(token.strip())
    if "X-Auth-Token" in request.headers:
        found.append(request.headers["X-Auth-Token"].strip())
    return [token for token in found if token]


class Authenticator:
    """Identifies callers; if there are tokens, refuses callers without one.

    Args:
        tokens: the valid tokens; with none the server is open to everybody.
        proxies: those whose ``X-Forwarded-For`` is believed.
        public_paths: paths that need no token, nor do those below them; ``/`` is that path only.
    """

    def __init__(self, tokens: Tokens, proxies: Proxies, public_paths: Collection[str]) -> None:
        self._tokens = tokens
        self._proxies = proxies
        self._public = frozenset(public_paths)
        self._below = tuple(path.removesuffix("/") + "/" for path in public_paths if path != "/")
        self._wrong_tokens = RateLimit(WRONG_TOKENS_PER_MINUTE, "wrong tokens")
        self._direct = lru_cache(_CACHED)(self._anonymous)

    def client(self, request: web.Request) -> Caller:
        """Return the caller.

        Raises:
            UnauthorizedError: a token is needed, and there is none or a wrong one.
            TooManyRequestsError: the token is wrong, as were many from this address.
        """
        # Most calls come directly, again and again from the same address. Proxied ones are not
        # cached: their header may be long, and different in every request.
        forwarded = request.headers.getall("X-Forwarded-For", ())
        peer = request.remote
        anonymous = self._anonymous(peer, forwarded) if forwarded else self._direct(peer)
        if not self._tokens:
            return anonymous
        tokens = presented(request)
        owner = self._tokens.owner(tokens)
        if owner is not None:
            return Caller(owner, f"token {owner}" if owner else anonymous.key)
        path = request.path
        if path in self._public or path.startswith(self._below):
            return anonymous
        if not tokens:
            raise UnauthorizedError(
                "This server asks for a token: send it as `Authorization: Bearer …` "
                "or as `X-Auth-Token`."
            )
        self._wrong_tokens.check(anonymous.key)
        raise UnauthorizedError("The token is not the right one.")

    def _anonymous(self, peer: str | None, forwarded: Iterable[str] = ()) -> Caller:
        """Return the client without a token at the other end of a connection."""
        return Caller("", share_of(self._proxies.address_of(peer, forwarded)))
