"""The limit of open files, which counts connections too."""

from __future__ import annotations

import resource

_EACH = 3
"""A connection, the file that is received or sent through it, and that file once more while the
kernel sends it."""
_BESIDE = 256
"""Kept for jobs, so that callers can't take their descriptors: pipes to children, the database,
folders, listeners, connections that are refused, and a margin."""


def make_room(connections: int) -> str | None:
    """Raise this process's limit to what so many connections may need, or as far as allowed.

    A login session or a service starts with 1,024 but may raise that; children inherit it.

    Returns:
        A sentence that says what to change if the limit stays too low, else None. The server
        then takes fewer connections, see `connections_that_fit`.
    """
    needed = _EACH * connections + _BESIDE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _covers(soft, needed):
        return None
    most = needed if _covers(hard, needed) else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most == needed:
        return None
    fewer = _fitting(hard)
    return (
        f"With server.max_connections at {connections}, {needed} files may be open at once, and "
        f"the system allows {hard}: raise LimitNOFILE in the service's unit (ulimit -Hn in a "
        f"shell), or set server.max_connections to {fewer} or less. The server takes {fewer} now."
    )


def connections_that_fit(wanted: int) -> int:
    """Return how many of ``wanted`` connections leave enough descriptors for jobs."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if _covers(soft, _EACH * wanted + _BESIDE) else min(wanted, _fitting(soft))


def _fitting(limit: int) -> int:
    # Where the limit is very low, half of it is for jobs.
    return max(1, (limit - min(_BESIDE, limit // 2)) // _EACH)


def _covers(limit: int, needed: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= needed
