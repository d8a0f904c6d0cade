"""What a process that decodes strangers' bytes may use up at most.

Each limit is set for good, soft and hard alike. Where the system's hard limit is lower already
(``ulimit`` in the shell that started the server), that one stays: only root may raise it.
"""

from __future__ import annotations

import resource

_OPEN_FILES = 64


def confine(memory_mb: int) -> None:
    """Bound this process's address space, open files and core dumps."""
    _lower(resource.RLIMIT_AS, memory_mb << 20)
    _lower(resource.RLIMIT_NOFILE, _OPEN_FILES)
    _lower(resource.RLIMIT_CORE, 0)


def allow(*, cpu_seconds: int, file_bytes: int) -> None:
    """Bound what this process, just forked, may compute and write.

    The kernel ends it (SIGXCPU) when the time is used up; a longer file is an OSError (EFBIG),
    since Python ignores SIGXFSZ.
    """
    # The soft limit sends the signal; a second later the hard one kills what survives it.
    _lower(resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + 1)
    _lower(resource.RLIMIT_FSIZE, file_bytes)


def _lower(which: int, soft: int, hard: int | None = None) -> None:
    """Set a limit, or keep the system's hard limit where that is lower."""
    _, most = resource.getrlimit(which)
    wanted = (soft, soft if hard is None else hard)
    if most != resource.RLIM_INFINITY:
        wanted = (min(wanted[0], most), min(wanted[1], most))
    resource.setrlimit(which, wanted)
