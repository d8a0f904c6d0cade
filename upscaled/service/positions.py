"""Reports the positions of queued jobs to listeners."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from upscaled.jobs.queue import JobQueue
from upscaled.jobs.registry import JobRegistry
from upscaled.timing.forecast import Forecaster

_PERIOD_SECONDS = 0.25
"""Shortest time between reports, since one change of the queue moves every job in it."""


async def report_positions(
    registry: JobRegistry,
    queue: JobQueue,
    positions: Callable[[], Mapping[str, int]],
    forecaster: Forecaster,
) -> None:
    """Report positions whenever the queue changes and there are listeners; runs until cancelled.

    Args:
        registry: tells the listeners.
        queue: tells when it changes.
        positions: returns the positions of jobs, by id.
        forecaster: tells whether they are up to date.
    """
    while True:
        await registry.listened(queue.changed.set)
        await queue.changed.wait()
        queue.changed.clear()
        registry.report_positions(positions())
        if not forecaster.up_to_date:  # long queues are forecast less often
            queue.changed.set()
        await asyncio.sleep(_PERIOD_SECONDS)
