"""The worker process: does jobs until it is told to stop or is drained."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from upscaled.config.settings import Config
from upscaled.server import sd_notify
from upscaled.server.roles import make_worker
from upscaled.server.starting import started
from upscaled.server.stop import Stop

log = logging.getLogger(__name__)


async def work(config: Config, on_ready: Callable[[str], None]) -> None:
    """Do jobs of a cluster until SIGTERM, SIGINT, or `upscaled cluster drain` and the last job.

    Args:
        config: the settings.
        on_ready: called with the worker's name when it takes jobs.

    Raises:
        ConfigError: something the settings demand is not there, or contradicts others.
        StoreUnavailableError: database or blobs don't answer for minutes.
    """
    stop = Stop()
    stop.listen()
    try:
        worker = await started(lambda: make_worker(config), stop)
        if worker is None:
            return
        on_ready(worker.name)
        sd_notify.notify("READY=1", "STATUS=Doing jobs of the cluster.")
        drained = asyncio.create_task(worker.drained(), name="drained")
        asked = asyncio.create_task(stop.asked.wait(), name="stop asked")
        try:
            await asyncio.wait([drained, asked], return_when=asyncio.FIRST_COMPLETED)
            log.info("Stopping." if stop.asked.is_set() else "The worker is drained.")
            sd_notify.notify("STOPPING=1", "STATUS=Letting running jobs finish.")
            await worker.drain(stop.at_once)
        finally:
            for task in (drained, asked):
                task.cancel()
            await asyncio.wait([drained, asked])
            await worker.stop()
    finally:
        stop.ignore()
