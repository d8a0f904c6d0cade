"""Resource limits of a process that decodes untrusted data.

Soft and hard limits are set alike, so they are final; `processor_time` lowers one for a while. If
the system's hard limit is lower (``ulimit`` in the shell that started the server), it stays: only
root can raise it.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

_OPEN_FILES = 64


def confine(memory_mb: int) -> None:
    """Limit this process's address space, open files and core dumps."""
    _lower(resource.RLIMIT_AS, memory_mb << 20)
    _lower(resource.RLIMIT_NOFILE, _OPEN_FILES)
    _lower(resource.RLIMIT_CORE, 0)


def allow(*, cpu_seconds: int, file_bytes: int) -> None:
    """Limit the processor time and file size of this process, which was just forked.

    When the time is used up, the kernel ends it (SIGXCPU). A longer file causes an OSError (EFBIG),
    since Python ignores SIGXFSZ.
    """
    # The soft limit sends the signal; a second later the hard one kills the process if it survived.
    _lower(resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + 1)
    _lower(resource.RLIMIT_FSIZE, file_bytes)


@contextmanager
def processor_time(seconds: int) -> Iterator[None]:
    """Have the kernel end this process (SIGXCPU) if the block takes more processor time."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    mine = math.ceil(time.process_time()) + seconds
    if soft == resource.RLIM_INFINITY or mine < soft:
        resource.setrlimit(resource.RLIMIT_CPU, (mine, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _lower(which: int, soft: int, hard: int | None = None) -> None:
    """Set a limit, or keep the system's hard limit if that is lower."""
    _, most = resource.getrlimit(which)
    wanted = (soft, soft if hard is None else hard)
    if most != resource.RLIM_INFINITY:
        wanted = (min(wanted[0], most), min(wanted[1], most))
    resource.setrlimit(which, wanted)
