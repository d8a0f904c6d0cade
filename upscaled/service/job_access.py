"""Jobs as their callers use them: look up, listen, cancel, fetch the result, delete."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager, AbstractContextManager

from upscaled.errors import UnknownJobError, UnknownModelError, WrongStateError
from upscaled.jobs.content import Content, FileContent
from upscaled.jobs.ended_jobs import NO_SUCH_JOB
from upscaled.jobs.job import TERMINAL, Job
from upscaled.jobs.registry import JobRegistry
from upscaled.jobs.result_cache import ResultCache
from upscaled.jobs.results import ResultFile, result_of
from upscaled.jobs.store import JobFilter, JobStore
from upscaled.jobs.updates import Subscription
from upscaled.jobs.webhook_messages import Message
from upscaled.jobs.workspace import Workspace
from upscaled.service.cleanup import Cleaner
from upscaled.service.job_views import JobViews
from upscaled.service.runner import JobRunner
from upscaled.service.sharing import SharedWork
from upscaled.service.uninterrupted import Uninterrupted
from upscaled.timing.forecast import Outlook
from upscaled.timing.speeds import Quicker
from upscaled.timing.timing import JobTiming

log = logging.getLogger(__name__)


class JobAccess:
    """What callers do with jobs that were accepted.

    Where a method takes an ``owner``, a job of somebody else is unknown to it.
    """

    def __init__(
        self,
        registry: JobRegistry,
        store: JobStore,
        workspace: Workspace,
        cleaner: Cleaner,
        dispatcher: JobRunner,
        *,
        timing: JobTiming,
        shared: SharedWork,
        result_cache: ResultCache,
        job_views: JobViews,
        deletions: Uninterrupted,
    ) -> None:
        self._registry = registry
        self._store = store
        self._workspace = workspace
        self._cleaner = cleaner
        self._dispatcher = dispatcher
        self._timing = timing
        self._shared = shared
        self._result_cache = result_cache
        self._job_views = job_views
        self._deletions = deletions

    async def get(self, job_id: str, owner: str | None = None) -> Job:
        """Return a job; ``owner``: only if it is theirs.

        Raises:
            UnknownJobError: there is none of this id, or it is somebody else's.
        """
        job = await self._registry.get(job_id)
        if owner is not None and job.owner != owner:
            raise UnknownJobError(NO_SUCH_JOB)
        return job

    async def page(
        self, wanted: JobFilter, after: tuple[float, str] | None, limit: int
    ) -> list[Job]:
        """Return jobs, newest first, see `JobStore.page`."""
        return await self._registry.page(wanted, after, limit)

    def outlook(self, job_id: str) -> Outlook | None:
        """Return when a job will be ready; None if it is not active."""
        return self._timing.outlook(self._shared.leader_of(job_id))

    async def quicker(self, job: Job) -> Quicker | None:
        """Return a model that would take far less time for ``job``, if there is one."""
        with contextlib.suppress(UnknownModelError):
            return await self._timing.quicker(job)
        return None

    @contextlib.asynccontextmanager
    async def subscribe(
        self, job_id: str, owner: str | None = None, *, after: int | None = None
    ) -> AsyncIterator[Subscription]:
        """Listen to a job, see `JobRegistry.subscribe`; ``owner``: only if it is theirs.

        Raises:
            UnknownJobError: there is none of this id, or it is somebody else's.
        """
        await self.get(job_id, owner)
        async with self._registry.subscribe(job_id, after=after) as updates:
            yield updates

    def subscribe_all(
        self,
        owner: str | None = None,
        *,
        after: int | None = None,
        states_only: bool = False,
        deletions: bool = False,
    ) -> AbstractAsyncContextManager[Subscription]:
        """Listen to all jobs of ``owner``, see `JobRegistry.subscribe_all`."""
        return self._registry.subscribe_all(
            owner, after=after, states_only=states_only, deletions=deletions
        )

    async def wait(self, job_id: str) -> Job:
        """Wait until a job has ended and return it.

        Raises:
            UnknownJobError: there is none of this id.
        """
        return await self._registry.settled(job_id)

    async def cancel(self, job_id: str, owner: str | None = None) -> Job:
        """Cancel a job; ``owner``: only if it is theirs.

        Raises:
            UnknownJobError: there is none of this id, or it is somebody else's.
            WrongStateError: it has ended.
        """
        await self.get(job_id, owner)
        return await self._dispatcher.cancel(job_id)

    async def result(self, job_id: str, owner: str | None = None) -> ResultFile:
        """Return the file of a job's result; ``owner``: only if it is theirs.

        Raises:
            UnknownJobError: there is none of this id, or it is somebody else's.
            WrongStateError: the job is not completed.
            ResultGoneError: its result was downloaded or expired.
        """
        job = await self.get(job_id, owner)
        return result_of(job, self._workspace.folder(job.id))

    async def open(self, result: ResultFile) -> Content:
        """Open a result, to send it; the caller closes it.

        Raises:
            FileNotFoundError: it is not there any more.
            StoreUnavailableError: the store of files does not answer.
        """
        return await FileContent.open(result.path)

    async def are_there(self, results: Collection[ResultFile]) -> bool:
        """Tell whether all of these results can be opened."""
        return await asyncio.to_thread(lambda: all(one.path.is_file() for one in results))

    def downloading(self, job_id: str) -> AbstractContextManager[None]:
        """Return a block in which the end of a grace period does not delete the job's result."""
        return self._cleaner.grace.downloading(job_id)

    async def delivered(self, job_id: str, *, to_proxy: bool = False) -> None:
        """Delete a result after every byte of it has arrived, if the settings say so.

        Args:
            job_id: its job, which may have been deleted meanwhile.
            to_proxy: at a proxy, which may still be passing the result on.
        """
        with contextlib.suppress(UnknownJobError):
            job = await self._registry.get(job_id)
            if job.result_gone is None:
                delivered = self._cleaner.delivered(job, to_proxy=to_proxy)
                await self._deletions.run(delivered, f"delivered-{job_id}")

    async def delete(self, job_id: str, owner: str | None = None) -> None:
        """Delete an ended job's record and files; ``owner``: only if it is theirs.

        Raises:
            UnknownJobError: there is none of this id, or it is somebody else's.
            WrongStateError: it has not ended.
        """
        job = await self.get(job_id, owner)
        if job.state not in TERMINAL:
            raise WrongStateError(f"The job is {job.state.value}; cancel it before you delete it.")
        await self._deletions.run(self._delete(job), f"delete-{job_id}")

    async def _delete(self, job: Job) -> None:
        await self._registry.ended.forget(job)
        self._cleaner.grace.forget(job.id)
        await self._workspace.remove(job.id)
        await self._job_views.forget(job)
        await self._result_cache.drop(job.work)
        log.info("job deleted", extra={"job": job.id})

    async def messages(self, job_id: str, owner: str | None = None) -> tuple[Job, list[Message]]:
        """Return a job and its webhook messages; ``owner``: only if it is theirs.

        Raises:
            UnknownJobError: there is none of this id, or it is somebody else's.
        """
        job = await self.get(job_id, owner)
        return job, await self._store.messages_of(job_id)
