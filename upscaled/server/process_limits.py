"""Warnings about limits (``ulimit``) of the shell or unit that started the server."""

from __future__ import annotations

import resource

from upscaled.config.settings import Config

_BYTES_PER_PIXEL = 3
"""Of a decoded picture's file; encoded results rarely have more."""


def complaints(config: Config) -> list[str]:
    """Return a sentence for each limit below what the settings allow jobs to use.

    A limit on open files is raised where that is possible: `open_files`.
    """
    found = []
    for which, option in ((resource.RLIMIT_AS, "-v"), (resource.RLIMIT_DATA, "-d")):
        memory = _limit(which)
        if memory is not None and memory >> 20 < config.limits.imaging_memory_mb:
            found.append(
                f"Each process may use {memory >> 20} MiB of memory (ulimit {option}), less than "
                f"the {config.limits.imaging_memory_mb} MiB of limits.imaging_memory_mb: jobs on "
                f"large pictures fail. Start the server with `ulimit {option} unlimited`."
            )
    longest = _limit(resource.RLIMIT_FSIZE)
    largest = config.limits.max_output_megapixels * 1e6 * _BYTES_PER_PIXEL
    if longest is not None and longest < max(largest, config.server.max_request_size_mb << 20):
        found.append(
            f"No file may be larger than {longest / 2**20:.3g} MiB (ulimit -f): jobs whose picture "
            f"or result has more than about {longest / _BYTES_PER_PIXEL / 1e6:.2g} megapixels "
            "fail. Start the server with `ulimit -f unlimited`."
        )
    seconds = _limit(resource.RLIMIT_CPU)
    if seconds is not None:
        found.append(
            f"The system ends each process after {seconds} seconds of computing (ulimit -t), "
            "this server and its workers too. Start it with `ulimit -t unlimited`."
        )
    return found


def _limit(which: int) -> int | None:
    """Return this process's limit; None: there is none."""
    soft, _ = resource.getrlimit(which)
    return None if soft == resource.RLIM_INFINITY else soft
