"""Request ids, which connect the logs of a caller, a proxy and this server."""

from __future__ import annotations

import random
import re

from aiohttp import web

HEADER = "X-Request-ID"

_random = random.Random()  # noqa: S311 - ids must differ, not be secret
_ACCEPTED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+/=-]{0,127}")


def id_of(request: web.Request) -> str:
    """Return the id that the caller or a proxy sent, or a new one.

    An id that is too long, or that a log line could be forged with, is replaced.
    """
    given = request.headers.getall(HEADER, [])
    if len(given) == 1 and _ACCEPTED.fullmatch(given[0]):
        return given[0]
    return f"{_random.getrandbits(128):032x}"
