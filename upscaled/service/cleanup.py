"""The cleaner: deletes results and records that are too old, and leftover files."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

from upscaled.errors import NoSpaceError
from upscaled.jobs.job import Job
from upscaled.jobs.registry import JobRegistry
from upscaled.jobs.store import JobStore
from upscaled.jobs.workspace import Workspace

log = logging.getLogger(__name__)

_ROUND_SECONDS = 60.0
_KEY_SECONDS = 24 * 3600.0
"""How long idempotency keys are kept."""
_JUMP_SECONDS = 5.0
"""A clock that gains less between two rounds is being adjusted, not set."""
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
        result_ttl: seconds that a result waits for its download.
        record_ttl: seconds that a job's record outlives its end.
    """

    def __init__(
        self,
        store: JobStore,
        registry: JobRegistry,
        workspace: Workspace,
        *,
        result_ttl: float,
        record_ttl: float,
    ) -> None:
        self._store = store
        self._registry = registry
        self._workspace = workspace
        self._result_ttl = result_ttl
        self._record_ttl = record_ttl
        self._jumps = ForwardJumps()

    async def run(self) -> None:
        """Clean up every minute, or more often if results expire sooner; runs until cancelled."""
        while True:
            try:
                await self.clean(time.time())
            except Exception:
                log.exception("The clean-up failed; it is tried again in a minute.")
            # Part of the shortest time to live, so that it is kept accurately.
            await asyncio.sleep(min(_ROUND_SECONDS, self._result_ttl / 4, self._record_ttl / 4))

    async def clean(self, now: float) -> None:
        """Delete everything that is too old at ``now`` (seconds since the epoch)."""
        await self._registry.tidy_again()
        await self._workspace.remove_leftovers()
        for job in self._registry.unrecorded():
            await self.let_go(job, job.result_gone or "lost")
        gone = {job.id for job in self._registry.unrecorded()}
        for job in await self._store.finished_before(
            now - self._result_ttl - self._jumps.within(self._result_ttl), with_result=True
        ):
            if job.id not in gone:
                await self.expire(job)
        for job in await self._store.finished_before(
            now - self._record_ttl - self._jumps.within(self._record_ttl), with_result=False
        ):
            await self._workspace.remove(job.id)
            await self._registry.forget(job.id)
        await self._store.forget_keys(now - _KEY_SECONDS - self._jumps.within(_KEY_SECONDS))

    async def expire(self, job: Job) -> None:
        """Delete the result of a completed job because of its age."""
        await self.let_go(job, "expired")
        log.info("job's result expired", extra={"job": job.id})

    async def let_go(self, job: Job, why: str) -> None:
        """Delete the result of a completed job and record ``why``.

        The record is written first, so that after a crash no missing file is promised. If the disk
        is too full for the record, the file is deleted first to make room.
        """
        try:
            await self._registry.mark_result_gone(job, why)
        except NoSpaceError:
            await self._workspace.remove(job.id)
            try:
                await self._registry.mark_result_gone(job, why)
            except NoSpaceError:
                log.error("job's result is deleted, which can't be recorded yet",
                          extra={"job": job.id})  # fmt: skip
        else:
            await self._workspace.remove(job.id)
