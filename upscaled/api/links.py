"""Addresses of this server, as the caller of a request must write them."""

from __future__ import annotations

import re

from aiohttp import web

from upscaled.callers import Proxies
from upscaled.jobs.description import Links

_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")  # no second slash: `//name` would be another host
_LONGEST = 256


class LinkBase:
    """Finds what the addresses of the endpoints start with.

    Args:
        prefix: ``server.api_prefix``.
        public_url: ``server.public_url``, where callers reach the server's root; may be empty.
        proxies: those whose ``X-Forwarded-Prefix`` is believed.
    """

    def __init__(self, prefix: str, public_url: str, proxies: Proxies) -> None:
        self._prefix = prefix
        self._public_url = public_url.removesuffix("/")
        self._proxies = proxies

    def of(self, request: web.Request) -> str:
        """Return the start of every address for the caller of ``request``.

        Behind a proxy that strips a path, the path comes in front: several proxies each add
        their own, the outermost first. A header that holds no such path is ignored.
        """
        if self._public_url:
            return self._public_url + self._prefix
        if "X-Forwarded-Prefix" in request.headers and self._proxies.trusts(request.remote):
            values = ",".join(request.headers.getall("X-Forwarded-Prefix")).split(",")
            path = "".join(value.strip().removesuffix("/") for value in values)
            if len(path) <= _LONGEST and _PATH.fullmatch(path):
                return path + self._prefix
        return self._prefix

    def links(self, request: web.Request, job_id: str) -> Links:
        """Return a job's addresses for the caller of ``request``."""
        return Links(self.of(request), job_id)
