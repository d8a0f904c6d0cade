"""The cleaner: deletes results and records that are too old, and leftover files."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable

from upscaled.errors import NoSpaceError, UnknownJobError
from upscaled.jobs.job import Job
from upscaled.jobs.registry import JobRegistry
from upscaled.jobs.result_cache import ResultCache
from upscaled.jobs.store import JobStore
from upscaled.jobs.workspace import Workspace
from upscaled.service.grace import GracePeriods
from upscaled.service.job_views import JobViews
from upscaled.service.view_cache import ViewCache

log = logging.getLogger(__name__)

_ROUND_SECONDS = 60.0
_KEY_SECONDS = 24 * 3600.0
"""How long idempotency keys are kept."""
_JUMP_SECONDS = 5.0
"""A clock that gains less between two rounds is adjusted, not set."""
_JUMPS = 64
"""Most jumps that are remembered."""


class ForwardJumps:
    """Notices when the system's clock is set forward.

    Results that were finished before the jump look older than they are, by its length. (Time during
    which the machine is suspended looks the same, and does not count either.)
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall = wall
        self._steady = steady
        self._difference = wall() - steady()
        self._jumps: deque[tuple[float, float]] = deque(maxlen=_JUMPS)

    def within(self, seconds: float) -> float:
        """Return by how many seconds the clock was set forward in the last ``seconds``."""
        steady = self._steady()
        difference = self._wall() - steady
        if (jump := difference - self._difference) > _JUMP_SECONDS:
            log.warning("The clock was set forward by %.0f s.", jump)
            self._jumps.append((steady, jump))
        self._difference = difference
        return sum(jump for moment, jump in self._jumps if steady - moment < seconds)


class Cleaner:
    """Deletes results that were not downloaded, old records, and leftover files.

    Args:
        store: finds ended jobs.
        registry: records that a result is gone.
        workspace: holds the files.
        cache: deletes its old entries.
        result_ttl: seconds that a result waits for its download.
        record_ttl: seconds that a job's record outlives its end.
        grace: seconds that a result stays after a proxy has received it; None: like any other.
        views: made of pictures that are gone are deleted.
        job_views: knows which those are.
    """

    def __init__(
        self,
        store: JobStore,
        registry: JobRegistry,
        workspace: Workspace,
        *,
        cache: ResultCache,
        result_ttl: float,
        record_ttl: float,
        grace: float | None,
        views: ViewCache,
        job_views: JobViews,
    ) -> None:
        self._views = views
        self._job_views = job_views
        self._store = store
        self._registry = registry
        self._workspace = workspace
        self._cache = cache
        self._result_ttl = result_ttl
        self._record_ttl = record_ttl
        self._jumps = ForwardJumps()
        self._keeps_delivered = grace is None
        self.grace = GracePeriods(grace or 0.0)

    async def run(self) -> None:
        """Clean up every minute, or more often if results expire sooner; runs until cancelled."""
        while True:
            try:
                await self.clean(time.time())
            except Exception:
                log.exception("The clean-up failed; it is tried again in a minute.")
            await asyncio.sleep(self.round_seconds)

    @property
    def round_seconds(self) -> float:
        """Seconds between two rounds: part of the shortest time to live, to keep it accurately."""
        shortest = min(self._result_ttl, self._record_ttl, self.grace.seconds or self._result_ttl)
        return min(_ROUND_SECONDS, shortest / 4)

    async def clean(self, now: float) -> None:
        """Delete everything that is too old at ``now`` (seconds since the epoch)."""
        await self.clean_own()
        await self.clean_old(now)

    async def clean_own(self) -> None:
        """Finish what could not be deleted or recorded before; end grace periods."""
        await self._registry.ended.tidy_again()
        await self._workspace.remove_leftovers()
        for job in self._registry.ended.all_unrecorded():
            await self.let_go(job, job.result_gone or "lost")
        for job_id in self.grace.over():
            await self._end_grace(job_id)

    async def clean_old(self, now: float) -> None:
        """Delete results, uploads, records and keys that are too old at ``now``."""
        gone = {job.id for job in self._registry.ended.all_unrecorded()}
        for job in await self._store.finished_before(
            now - self._result_ttl - self._jumps.within(self._result_ttl), with_result=True
        ):
            if job.id not in gone:
                await self.expire(job)
        await self._expire_uploads(now - self._result_ttl - self._jumps.within(self._result_ttl))
        for job in await self._store.finished_before(
            now - self._record_ttl - self._jumps.within(self._record_ttl), with_result=False
        ):
            await self._workspace.remove(job.id)
            await self._job_views.forget(job)
            await self._registry.ended.forget(job)
        await self._cache.expire(now)
        await self._store.forget_keys(now - _KEY_SECONDS - self._jumps.within(_KEY_SECONDS))

    async def _expire_uploads(self, before: float) -> None:
        """Delete the uploads of jobs that ended before a moment and have no result."""
        for job_id, ended in list(self._workspace.uploads_kept.items()):
            if ended < before:
                await self._drop_upload(job_id)

    async def _drop_upload(self, job_id: str) -> None:
        await self._workspace.remove(job_id)
        with contextlib.suppress(UnknownJobError):
            await self._job_views.forget(await self._registry.get(job_id))

    async def expire(self, job: Job) -> None:
        """Delete the result of a completed job because of its age."""
        await self.let_go(job, "expired" if job.delivered is None else "downloaded")
        log.info("job's result expired", extra={"job": job.id})

    async def delivered(self, job: Job, *, to_proxy: bool) -> None:
        """Delete the result of a job whose every byte has arrived; after a grace period at a proxy.

        If it can be recorded, the period continues after a restart.
        """
        if self._keeps_delivered:
            return
        if not to_proxy or not self.grace.seconds:
            await self.let_go(job, "downloaded")
            log.info("job's result downloaded and deleted", extra={"job": job.id})
            return
        self.grace.begin(job.id)
        try:
            await self._registry.ended.mark_delivered(job.id, time.time())
        except UnknownJobError:
            self.grace.forget(job.id)
        except NoSpaceError as error:
            log.warning(
                "job's delivery can't be recorded",
                extra={"job": job.id, "reason": error.message},
            )
        else:
            log.info("job's result downloaded by a proxy", extra={"job": job.id})

    def resume_grace(self, job: Job) -> None:
        """Continue the grace period of a job that an earlier run of the server began."""
        if job.delivered is not None and not self._keeps_delivered:
            self.grace.begin(job.id, time.time() - job.delivered)

    async def make_room(self, count: int) -> None:
        """Delete views, then cached results, uploads without a result, and results in their grace
        period, each time the oldest first.

        Args:
            count: how many more bytes to free. Deleting a cached result that a job still has frees
                none.
        """
        wanted = await self._workspace.free_bytes() + count
        while await self._views.free() or await self._cache.free(count):
            count = wanted - await self._workspace.free_bytes()
            if count <= 0:
                return
        for job_id in list(self._workspace.uploads_kept):
            await self._drop_upload(job_id)
            count = wanted - await self._workspace.free_bytes()
            if count <= 0:
                return
        for job_id in self.grace.running():
            if count <= 0:
                return
            count -= await self._end_grace(job_id)

    async def _end_grace(self, job_id: str) -> int:
        """Delete a result in its grace period; return its size in bytes."""
        try:
            job = await self._registry.get(job_id)
        except UnknownJobError:
            self.grace.forget(job_id)
            return 0
        await self.let_go(job, "downloaded")
        log.info("job's result deleted after its grace period", extra={"job": job_id})
        return job.file_size_bytes or 0

    async def let_go(self, job: Job, why: str) -> None:
        """Delete the result of a completed job and record ``why``; nothing if the job was deleted.

        The record is written first, so that after a crash no missing file is promised. If the disk
        is too full for the record, the file is deleted first to make room.
        """
        self.grace.forget(job.id)
        try:
            await self._registry.ended.mark_result_gone(job, why)
        except UnknownJobError:
            return
        except NoSpaceError:
            await self._workspace.remove(job.id)
            try:
                await self._registry.ended.mark_result_gone(job, why)
            except NoSpaceError:
                log.error("job's result is deleted, which can't be recorded yet",
                          extra={"job": job.id})  # fmt: skip
        else:
            await self._workspace.remove(job.id)
        await self._job_views.forget(job)
