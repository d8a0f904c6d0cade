"""What a process that decodes strangers' bytes may use up at most."""

from __future__ import annotations

import resource

_OPEN_FILES = 64


def confine(memory_mb: int) -> None:
    """Bound this process's address space, open files and core dumps, for good."""
    memory = memory_mb << 20
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def allow(*, cpu_seconds: int, file_bytes: int) -> None:
    """Bound what this process, just forked, may compute and write, for good.

    The kernel ends it (SIGXCPU) when the time is used up; a longer file is an OSError (EFBIG),
    since Python ignores SIGXFSZ.
    """
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
