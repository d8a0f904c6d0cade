"""How late the event loop runs due callbacks, measured while metrics are scraped."""

from __future__ import annotations

import asyncio
import contextlib

from prometheus_client import CollectorRegistry, Histogram

_PERIOD_SECONDS = 0.25
_PATIENCE_SECONDS = 300.0
"""Seconds after the last scrape when measuring stops, so that an idle server sleeps."""
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class LoopLag:
    """Measures how late the event loop is, four times a second while it is scraped.

    Args:
        registry: where the metric is registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lag = Histogram(
            "upscaled_event_loop_lag_seconds",
            "How late the event loop ran what was due; measured while metrics are scraped.",
            buckets=_BUCKETS,
            registry=registry,
        )
        self._task: asyncio.Task[None] | None = None
        self._until = 0.0

    def scraped(self) -> None:
        """Go on measuring, or begin to."""
        self._until = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._measure(), name="loop lag")

    async def _measure(self) -> None:
        loop = asyncio.get_running_loop()
        while (began := loop.time()) < self._until:
            await asyncio.sleep(_PERIOD_SECONDS)
            self._lag.observe(max(0.0, loop.time() - began - _PERIOD_SECONDS))

    async def close(self) -> None:
        """Stop measuring."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
