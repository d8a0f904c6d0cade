"""Followers: jobs that wait for the result of an identical one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from upscaled.errors import UnknownJobError
from upscaled.jobs.job import Job, JobState
from upscaled.jobs.registry import JobRegistry
from upscaled.jobs.results import result_name
from upscaled.jobs.workspace import Workspace
from upscaled.service.outcomes import Outcomes
from upscaled.service.sharing import SharedWork, WorkGroup

log = logging.getLogger(__name__)


def completed_from(receipt: Mapping[str, Any], how: str, work: str) -> dict[str, Any]:
    """Return the fields of a job that is completed with the result of another one.

    Args:
        receipt: of the job that did the work.
        how: ``cached`` or ``shared``.
        work: digest of the work.
    """
    now = time.time()
    own = {name: value for name, value in receipt.items() if name not in {"cached", "shared"}}
    return {
        "progress": 100,
        "finished": now,
        "file_size_bytes": receipt["output"]["file_size_bytes"],
        "device": receipt["engine"]["device"],
        "receipt": {**own, how: True},
        "work": work,
    }


class Followers:
    """Shows each follower what its leader does, and gives it the result.

    A follower whose leader fails or is cancelled does the work itself, or follows the next one.

    Args:
        registry: where jobs change.
        shared: knows who follows whom.
        workspace: holds the files of jobs.
        outcomes: records the ends of jobs.
        enqueue: lets a job do its work itself.
    """

    def __init__(
        self,
        registry: JobRegistry,
        shared: SharedWork,
        workspace: Workspace,
        outcomes: Outcomes,
        enqueue: Callable[[Job], Awaitable[None]],
    ) -> None:
        self._registry = registry
        self._shared = shared
        self._workspace = workspace
        self._enqueue = enqueue
        self._outcomes = outcomes
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def add(self, job: Job, group: WorkGroup) -> None:
        """Let a job that is in the registry follow the leader of its group."""
        task = asyncio.create_task(self._follow(job.id, group), name=f"follow-{job.id}")
        self._tasks[job.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(job.id, None))

    def tasks(self, job_id: str | None = None) -> list[asyncio.Task[None]]:
        """Return the tasks of all followers, or that of one."""
        if job_id is None:
            return list(self._tasks.values())
        return [self._tasks[job_id]] if job_id in self._tasks else []

    def served_soon(self) -> list[asyncio.Task[None]]:
        """Return the tasks of followers whose leader is being worked on."""
        return [
            task
            for job_id, task in self._tasks.items()
            if (leader := self._registry.peek(self._shared.leader_of(job_id))) is not None
            and leader.state is JobState.PROCESSING
        ]

    async def complete_from_cache(self, job: Job, work: str) -> bool:
        """Complete an active job with the cached result of its work; False if there is none."""
        found = await self._shared.cached(work, job)
        if found is None:
            return False
        await self._complete(job, found.receipt, "cached", work)
        return True

    async def _follow(self, job_id: str, group: WorkGroup) -> None:
        while True:
            try:
                await self._watch(job_id, group)
                job = self._registry.peek(job_id)
                if job is None or await self._served(job, group):
                    return
                if group.verdict is not None:
                    await self._outcomes.failed(job_id, group.verdict)
                    return
                self._registry.mirror(job_id, None)
                group = self._shared.next_group(group, job_id)
                if group.leader != job_id:
                    continue
                job = self._registry.peek(job_id)
                if job is not None and not await self.complete_from_cache(job, group.key):
                    await self._enqueue(job)
            except Exception:
                log.exception("job can't follow another one", extra={"job": job_id})
                if (job := self._registry.peek(job_id)) is not None:
                    self._registry.mirror(job_id, None)
                    await self._enqueue(job)
            return

    async def _watch(self, job_id: str, group: WorkGroup) -> None:
        """Show a follower what its leader does, until that has ended."""
        await group.recorded.wait()
        with contextlib.suppress(UnknownJobError):  # it was refused, or is deleted already
            async with self._registry.subscribe(group.leader) as updates:
                async for update in updates:
                    self._registry.mirror(job_id, update)
        await group.ended.wait()

    async def _served(self, job: Job, group: WorkGroup) -> bool:
        """Complete a follower that has got its leader's result; False if it has none."""
        if group.receipt is None or job.id not in group.served:
            return False
        try:
            await self._workspace.flush_folder(job.id)
        except OSError as error:
            extra = {"job": job.id, "reason": str(error)}
            log.warning("job does the work again, since its result can't be stored", extra=extra)
            return False
        await self._complete(job, group.receipt, "shared", group.work)
        return True

    async def _complete(self, job: Job, receipt: Mapping[str, Any], how: str, work: str) -> None:
        fields = completed_from(receipt, how, work)
        if await self._outcomes.end(
            job.id,
            JobState.COMPLETED,
            lambda: self._workspace.keep_result(job.id, result_name(job)),
            started=job.started or fields["finished"],
            **fields,
        ):
            log.info("job completed with another one's result", extra={"job": job.id, "how": how})
