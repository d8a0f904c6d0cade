"""The metrics of the server, for Prometheus."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from upscaled.jobs.updates import LaggedError
from upscaled.metrics.current import current
from upscaled.metrics.http_metrics import HttpMetrics
from upscaled.metrics.job_metrics import JobMetrics
from upscaled.metrics.loop_lag import LoopLag
from upscaled.service.background import kept_running
from upscaled.service.service import Service

# Otherwise each counter exports another series, the time when it began.
disable_created_metrics()  # type: ignore[no-untyped-call]


class _Taken(Collector):
    """The metrics that the latest `Metrics.render` collected."""

    def __init__(self) -> None:
        self.families: list[Metric] = []

    def collect(self) -> Iterable[Metric]:
        return self.families


class Metrics:
    """Counts, and renders everything in Prometheus' text format.

    Args:
        service: whose jobs are counted; its state is read when metrics are rendered.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._taken = _Taken()
        self._registry.register(self._taken)
        self._jobs = JobMetrics(self._registry)
        self._lag = LoopLag(self._registry)
        self.http = HttpMetrics(self._registry)
        self.sent_bytes = 0
        """Of results that were sent."""

    async def counting(self, _: object) -> AsyncIterator[None]:
        """Count jobs while the server runs: a context of its application."""
        following = asyncio.create_task(kept_running(self._follow, "metrics"), name="metrics")
        yield
        await self._lag.close()
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following

    async def _follow(self) -> None:
        """Count the ends of jobs, none twice."""
        after: int | None = None
        while True:
            subscribed = self._service.jobs.subscribe_all(after=after, states_only=True)
            with contextlib.suppress(LaggedError):
                async with subscribed as updates:
                    async for update in updates:
                        after = update.sequence
                        if update.ended:
                            self._jobs.ended(update.job)

    async def render(self) -> bytes:
        """Return all metrics as text.

        The server's state is read on the event loop; a thread writes the text and reads the figures
        of the process from the system.
        """
        self._lag.scraped()
        self._taken.families = await current(self._service, self.sent_bytes)
        return await asyncio.to_thread(generate_latest, self._registry)
