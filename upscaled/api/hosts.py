"""The names that requests may address the server by: a defence against DNS rebinding.

A web page can have its own name resolved to this server's address. Its requests then go to
this server, and the browser lets the page read the responses. They carry the page's name as
``Host``.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection, Sequence
from functools import lru_cache

from aiohttp import web

from upscaled.callers import Proxies
from upscaled.errors import ForbiddenHostError

_CACHED = 256  # Host values, of `_LONGEST` characters at most
_LONGEST = 260


@lru_cache(_CACHED)
def _split(authority: str) -> tuple[str, str]:
    """Return host and port of ``host:port``; the port is empty where there is none."""
    authority = authority.strip().lower()
    if authority.startswith("["):
        host, _, port = authority[1:].partition("]")
        return host, port.removeprefix(":")
    host, _, port = authority.partition(":")
    return host.removesuffix("."), port


def host_of(authority: str) -> str:
    """Return the host of a ``Host`` header; empty if that is too long to be one."""
    return _split(authority)[0] if len(authority) <= _LONGEST else ""


def authorities(request: web.Request) -> Sequence[str]:
    """Return the hosts, with their ports, that a request addresses; one in all but odd requests.

    In the absolute form (``GET http://name/path``) the request's target says it, and ``Host`` is
    ignored (RFC 9112, section 3.2.2).
    """
    if not request.raw_path.startswith("/") and (named := request.url.host_port_subcomponent):
        return (named,)
    return request.headers.getall("Host", ())


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class HostPolicy:
    """Decides whether the host that a request addresses is this server.

    Always allowed are addresses and names without a dot, since no page can have such a name of
    its own; localhost; the machine's host name; and the host that the server listens on.

    Args:
        listens_on: ``server.host``.
        allowed: more names; ``*.example.com`` stands for all names below, ``*`` for any.
        proxies: those whose ``X-Forwarded-Host`` is believed. A request from one of them may
            have any ``Host``: which names reach the server is for the proxy to decide.
    """

    def __init__(self, listens_on: str, allowed: Collection[str], proxies: Proxies) -> None:
        names = {name.lower().removesuffix(".") for name in allowed}
        self._any = "*" in names
        self._listed = frozenset(name for name in names if not name.startswith("*"))
        self._listed_below = tuple(name[1:] for name in names if name.startswith("*."))
        machine = socket.gethostname().lower()
        self._own = frozenset({listens_on.lower(), machine, machine + ".local"})
        self._proxies = proxies
        self._allows = lru_cache(_CACHED)(self._is_allowed)

    def check(self, request: web.Request) -> None:
        """Refuse a request that addresses a name which is not the server's.

        Raises:
            ForbiddenHostError: it does; the message says what to set.
        """
        for authority in authorities(request):
            short = len(authority) <= _LONGEST
            if (short and self._allows(authority)) or self._proxies.trusts(request.remote):
                continue
            shown = _split(authority)[0] if short else authority[:64] + "…"
            raise ForbiddenHostError(
                f"This server is not known as {shown!r}; add that name to server.allowed_hosts, "
                "or the proxy in front to server.trusted_proxies."
            )

    def _is_allowed(self, authority: str) -> bool:
        host, _ = _split(authority)
        return (
            self._any
            or "." not in host
            or host in self._own
            or host.endswith(".localhost")
            or self.lists(host)
            or _is_address(host)
        )

    def lists(self, host: str) -> bool:
        """Tell whether the settings list a host name."""
        return host in self._listed or host.endswith(self._listed_below)

    def is_own_origin(self, request: web.Request, origin: str) -> bool:
        """Tell whether a web page's origin is the very host that the request went to."""
        scheme, separator, authority = origin.partition("://")
        if not separator or len(authority) > _LONGEST:
            return False
        host, port = _split(authority)
        if self.lists(host):
            return True
        default = {"http": "80", "https": "443"}.get(scheme.lower(), "")
        requested = authorities(request)
        if self._proxies.trusts(request.remote):
            # Proxies may drop the port or change it, so the name alone must do.
            names = [
                _split(part)[0]
                for value in (*request.headers.getall("X-Forwarded-Host", ()), *requested)
                for part in value.split(",")
                if len(part) <= _LONGEST
            ]
            return host in names
        if not requested or len(requested[0]) > _LONGEST:
            return False
        name, at = _split(requested[0])
        return (host, port or default) == (name, at or default)
