"""The cleaner of a cluster: the leader deletes results, each server its own leftovers."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from upscaled.blobs.blobs import Blobs
from upscaled.cluster import keys, members, work_queue
from upscaled.jobs.job import TERMINAL, Job
from upscaled.jobs.postgres_database import Connection, Database
from upscaled.service.cleanup import Cleaner

log = logging.getLogger(__name__)

_SWEEP_SECONDS = 600.0
_YOUNG_SECONDS = 3600.0
"""A blob without a record may belong to a job that is being submitted or finished."""


class SharedCleaner(Cleaner):
    """`Cleaner` of an API server of a cluster.

    `run` is for every server. `lead` is for the leader: it deletes old results and records by the
    database's clock, and files that belong to no job.

    Args:
        database: has the clock.
        blobs: the files that all machines share.
        lease_seconds: how long a member may be silent.
        parts: those of `Cleaner`.
    """

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        lease_seconds: float,
        **parts: Any,
    ) -> None:
        super().__init__(**parts)
        self._database = database
        self._blobs = blobs
        self._lease_seconds = lease_seconds
        self._swept = float("-inf")

    async def clean(self, now: float) -> None:
        """Clean up what is this server's alone."""
        del now
        await self.clean_own()

    async def lead(self) -> None:
        """Clean up what all members share; runs until cancelled."""
        while True:
            try:
                await self._clean_shared()
            except Exception:
                log.exception("The clean-up failed; it is tried again soon.")
            await asyncio.sleep(self.round_seconds)

    async def _clean_shared(self) -> None:
        now = await self._database.run(work_queue.clock)
        await self.clean_old(now)
        await self._database.run(self._tidy)
        if time.monotonic() - self._swept > _SWEEP_SECONDS:
            await self.sweep(now)
            self._swept = time.monotonic()

    async def _tidy(self, connection: Connection) -> None:
        await work_queue.tidy(connection, self._lease_seconds)
        await members.tidy(connection, self._lease_seconds)

    async def sweep(self, now: float) -> int:
        """Delete blobs that no job needs at ``now``; return how many there were."""
        count = 0
        for prefix in (keys.UPLOADS, keys.RESULTS, keys.BANDS):
            async for blob in self._blobs.list(prefix):
                job_id = keys.job_of(blob.key)
                if job_id is None or now - blob.modified < _YOUNG_SECONDS:
                    continue
                if not self._needed(blob.key, await self._store.get(job_id), now):
                    await self._blobs.delete(blob.key)
                    count += 1
        if count:
            log.info("files without a job deleted", extra={"count": count})
        return count

    def _needed(self, key: str, job: Job | None, now: float) -> bool:
        if job is None:
            return False
        if job.state not in TERMINAL:
            return True
        if key.startswith(keys.BANDS):
            return False
        if key.startswith(keys.RESULTS):
            return key == job.result_key and job.result_gone is None
        old = now - (job.finished or now) > self._result_ttl
        return self._workspace.keeps_uploads and job.result_gone is None and not old
