"""`WorkerProcess`: a worker of a cluster as a process of its own (`upscaled work`)."""

from __future__ import annotations

import asyncio
import contextlib

from upscaled.cluster.importing import check_no_records
from upscaled.cluster.link import Link
from upscaled.cluster.worker import ClusterWorker
from upscaled.config.settings import Config
from upscaled.models.catalog import ModelCatalog
from upscaled.service.imaging_parts import make_imaging


class WorkerProcess:
    """A worker with everything that it needs.

    Args:
        config: the settings.
    """

    def __init__(self, config: Config) -> None:
        self._data_dir = config.data_dir
        self._link = Link(config)
        self.name = self._link.name
        """The worker among the members."""
        self._imaging = make_imaging(config)
        self._worker = ClusterWorker(
            config,
            config.data_dir,
            self.name,
            database=self._link.database,
            blobs=self._link.blobs,
            imaging=self._imaging,
            models=ModelCatalog.of(config),
        )
        self._closing = contextlib.AsyncExitStack()

    async def start(self) -> None:
        """Join the cluster and take jobs.

        Raises:
            ConfigError: something that the settings require is missing, or contradicts others.
            StoreUnavailableError: database or blobs don't answer.
        """
        await asyncio.to_thread(check_no_records, self._data_dir)
        async with contextlib.AsyncExitStack() as closing:
            await self._link.open()
            closing.push_async_callback(self._link.close)
            closing.push_async_callback(self._imaging.close)
            await self._worker.start()
            closing.push_async_callback(self._worker.stop)
            self._worker.watch_health()
            self._closing = closing.pop_all()

    async def drained(self) -> None:
        """Wait until the worker was asked to end and its jobs have ended."""
        await self._worker.drained()

    async def drain(self, hurry: asyncio.Event) -> None:
        """Take no more jobs; let running ones finish for ``server.drain_seconds``.

        Args:
            hurry: ends that wait when it is set.
        """
        await self._worker.drain(hurry)

    async def stop(self) -> None:
        """Give unfinished jobs back, and end everything."""
        await self._closing.aclose()
