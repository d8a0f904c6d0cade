"""Reports of the service's state: health for callers, figures for metrics."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Mapping

from upscaled.engines.pool import EnginePool
from upscaled.engines.selection import EngineChoice
from upscaled.jobs.job import JobState
from upscaled.jobs.registry import JobRegistry
from upscaled.jobs.result_cache import ResultCache
from upscaled.jobs.workspace import Workspace
from upscaled.service.cleanup import Cleaner
from upscaled.service.figures import Figures
from upscaled.service.health import Health
from upscaled.service.runner import JobRunner
from upscaled.service.sharing import SharedWork
from upscaled.service.submission import Submissions
from upscaled.webhooks.deliveries import Deliveries

_DISK_SECONDS = 1.0
_CPU_ID = -1  # in upscaler.gpu_ids


class Reports:
    """Reads the state of the service's parts.

    Args:
        gpu_ids: the devices that the settings name.
        verifications: comparisons of results with their source, by outcome, in total.
        webhooks: None: there are none.
    """

    def __init__(
        self,
        gpu_ids: Collection[int],
        choice: EngineChoice,
        pool: EnginePool,
        registry: JobRegistry,
        workspace: Workspace,
        health: Health,
        *,
        submissions: Submissions,
        dispatcher: JobRunner,
        cleaner: Cleaner,
        shared: SharedWork,
        result_cache: ResultCache,
        verifications: Mapping[str, int],
        webhooks: Deliveries | None,
    ) -> None:
        self._gpu_ids = gpu_ids
        self._choice = choice
        self._pool = pool
        self._registry = registry
        self._workspace = workspace
        self._health = health
        self._submissions = submissions
        self._dispatcher = dispatcher
        self._cleaner = cleaner
        self._shared = shared
        self._result_cache = result_cache
        self._verifications = verifications
        self._webhooks = webhooks
        self._free_disk = 0

    async def health(self) -> Mapping[str, object]:
        """Return the health of the service; ``status`` is a `HealthState`.

        Answers within a second even if the disk does not respond.
        """
        choice, health = self._choice, self._health
        with contextlib.suppress(TimeoutError):  # the last known value is good enough
            async with asyncio.timeout(_DISK_SECONDS):
                self._free_disk = await self._workspace.free_bytes()
        unusable = {place.device.id: why for place, why in self._pool.unusable.items()}
        place = health.place
        on_cpu = place.is_cpu if place else all(d.index is None for d in choice.devices)
        return {
            "status": health.state.value if self._submissions.open else "draining",
            **({"reason": health.reason} if health.reason else {}),
            "engine": choice.engine,
            "devices": [device.name for device in choice.devices],
            "gpu": any(device.is_gpu for device in choice.devices),
            **({"device": place.device.id} if place else {}),
            **({"unusable": unusable} if unusable else {}),
            "cpu_fallback": on_cpu and _CPU_ID not in self._gpu_ids,
            "queue_length": self._registry.count(JobState.QUEUED),
            "processing": self._registry.count(JobState.PROCESSING),
            "free_disk_mb": self._free_disk >> 20,
            **self._disk_waiters(),
        }

    def _disk_waiters(self) -> Mapping[str, object]:
        """Return how many jobs wait for room on the disk, and what lets them go on; {} if none."""
        needs = self._dispatcher.waiting_for_disk.values()
        if not needs:
            return {}
        jobs = "1 job waits" if len(needs) == 1 else f"{len(needs)} jobs wait"
        return {
            "waiting_for_disk": {
                "jobs": len(needs),
                "reason": f"{jobs} for room on the disk of the data folder. The smallest needs "
                f"{_mib(min(needs))} MiB; {self._free_disk >> 20} MiB are free, of which running "
                "jobs may need a part. Make room there; the jobs go on by themselves.",
            }
        }

    def figures(self) -> Figures:
        """Return the state of the service in numbers."""
        webhooks, cache = self._webhooks, self._result_cache
        waiting = [job.created for job in self._registry.active() if job.state is JobState.QUEUED]
        return Figures(
            queued=len(waiting),
            processing=self._registry.count(JobState.PROCESSING),
            oldest_seconds=max(0.0, time.time() - min(waiting)) if waiting else 0.0,
            slots=self._pool.most_at_once,
            busy_seconds=self._pool.busy_seconds(),
            verifications=dict(self._verifications),
            uploads=self._submissions.uploading,
            received_bytes=self._submissions.received_bytes,
            cache_answers={
                "hit": cache.hits,
                "miss": cache.misses,
                "corrupted": cache.corrupted,
                "joined": self._shared.joined,
            },
            cache_bytes=cache.bytes,
            in_grace=len(self._cleaner.grace),
            webhook_jobs=len(webhooks) if webhooks is not None else 0,
            webhook_attempts=dict(webhooks.attempts) if webhooks is not None else {},
        )


def _mib(count: int) -> int:
    """Return bytes as MiB, rounded up."""
    return -(-count >> 20)
