"""Request ids, which connect the logs of a caller, a proxy and this server."""

from __future__ import annotations

import random
import re

from aiohttp import web

HEADER = "X-Request-ID"

_random = random.Random()  # noqa: S311 - ids must differ, not be secret
# Version ff is invalid, as are ids of zeros only; later versions may append more.
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.{0,256})?"
)
_ACCEPTED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+/=-]{0,127}")


def id_of(request: web.Request) -> str:
    """Return the id that the caller or a proxy sent, or a new one.

    That is ``X-Request-ID``, or the trace id of ``traceparent`` (W3C Trace Context). An id that is
    too long, or that a log line could be forged with, is replaced.
    """
    given = request.headers.getall(HEADER, [])
    if len(given) == 1 and _ACCEPTED.fullmatch(given[0]):
        return given[0]
    if "traceparent" in request.headers:
        traces = request.headers.getall("traceparent")
        found = _TRACEPARENT.fullmatch(traces[0].strip()) if len(traces) == 1 else None
        if found is not None:
            return found[1]
    return f"{_random.getrandbits(128):032x}"
