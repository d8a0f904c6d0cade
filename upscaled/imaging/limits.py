"""What a process that decodes strangers' bytes may use up at most."""

from __future__ import annotations

import functools
import os
import resource

_OPEN_FILES = 64
_PAGE = resource.getpagesize()


def confine(memory_mb: int) -> None:
    """Bound this process's address space, open files and core dumps, for good."""
    _statm()  # while files can still be opened
    memory = memory_mb << 20
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def allow(*, cpu_seconds: int, file_bytes: int) -> None:
    """Let the next request use so much processor time and write files so long.

    The kernel ends the process (SIGXCPU) when the time is used up; a longer file is an OSError
    (EFBIG), since Python ignores SIGXFSZ.
    """
    usage = resource.getrusage(resource.RUSAGE_SELF)
    spent = usage.ru_utime + usage.ru_stime
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(spent) + 1 + cpu_seconds, hard))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, hard))


def resident_bytes() -> int:
    """Return this process's resident memory."""
    return int(os.pread(_statm(), 128, 0).split()[1]) * _PAGE


@functools.cache
def _statm() -> int:
    return os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
