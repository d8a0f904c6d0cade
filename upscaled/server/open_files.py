"""The limit of open files, which counts connections too."""

from __future__ import annotations

import resource

_EACH = 2
"""A connection, and the file that is received or sent through it."""
_BESIDE = 256
"""Pipes to children, the database, folders, listeners, and a reserve."""


def make_room(connections: int) -> str | None:
    """Raise this process's limit to what so many connections may need, or as far as allowed.

    A login session or a service starts with 1,024 but may raise that; children inherit it.

    Returns:
        A sentence that says what to change if the limit stays too low, else None.
    """
    needed = _EACH * connections + _BESIDE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _covers(soft, needed):
        return None
    most = needed if _covers(hard, needed) else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most == needed:
        return None
    fewer = max(1, (hard - _BESIDE) // _EACH)
    return (
        f"With server.max_connections at {connections}, {needed} files may be open at once, and "
        f"the system allows {hard}: raise LimitNOFILE in the service's unit (ulimit -Hn in a "
        f"shell), or set server.max_connections to {fewer} or less."
    )


def _covers(limit: int, needed: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= needed
