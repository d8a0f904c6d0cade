"""Request ids: what ties a caller's log, a proxy's and ours together."""

from __future__ import annotations

import random
import re

from aiohttp import web

HEADER = "X-Request-ID"

_random = random.Random()  # noqa: S311 - ids must differ, not be secret
_SANE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+/=-]{0,127}")


def id_of(request: web.Request) -> str:
    """Return the id the caller or a proxy gave a request, or a fresh one.

    What could not be told from log text, or is too long for it, is no id.
    """
    given = request.headers.getall(HEADER, [])
    if len(given) == 1 and _SANE.fullmatch(given[0]):
        return given[0]
    return f"{_random.getrandbits(128):032x}"
