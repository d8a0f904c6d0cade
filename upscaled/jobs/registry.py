"""The job registry: active jobs in memory, all jobs in the store."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from upscaled.errors import UnknownJobError
from upscaled.jobs.arrival_times import Arrivals
from upscaled.jobs.ended_jobs import NO_SUCH_JOB, EndedJobs, Tidy
from upscaled.jobs.job import ACTIVE, TERMINAL, Job, JobState, is_job_id
from upscaled.jobs.store import JobFilter, JobStore, SubmissionKey
from upscaled.jobs.updates import Change, JobUpdate, Stage, Subscription, Updates
from upscaled.jobs.webhook_messages import Message

log = logging.getLogger(__name__)

_RECORD_AGAIN_SECONDS = 1.0


MessageWriter = Callable[[Job], Sequence[Message]]
"""Returns the messages that the present state of a job calls for; the same ids each time."""


class NotUnderWayError(Exception):
    """The job has ended, or another task is ending it."""


class JobRegistry:
    """The one place where a job changes, and where its changes are reported.

    A change of state is decided in memory, immediately and once, so that either a cancellation or a
    completion wins, never both. It is then recorded in the store, and reported after that. Progress
    is kept in memory only.

    Args:
        store: records the jobs.
        messages: the messages that are recorded with a job's state, in the same transaction.
    """

    def __init__(self, store: JobStore, messages: MessageWriter = lambda _: ()) -> None:
        self._store = store
        self._messages = messages
        self.on_messages: Callable[[Job], None] = lambda _: None
        """Called when messages of a job have been recorded."""
        self._active: dict[str, Job] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._recording: set[asyncio.Task[None]] = set()
        self._untold: set[str] = set()
        """Active jobs whose state is being recorded; nothing about them is reported until then."""
        self._updates = Updates()
        self.ended = EndedJobs(store, self._updates, self._put, self._deleted)
        self.arrivals = Arrivals()

    def _deleted(self, job: Job) -> None:
        """Tell that the record of an ended job was deleted here."""
        self._updates.tell_deleted(job.id, job.owner)

    async def load(self) -> list[Job]:
        """Load the unfinished jobs of an earlier run; return them, oldest first."""
        jobs = await self._store.in_states(ACTIVE)
        self._active = {job.id: job for job in jobs}
        for job in jobs:
            self.arrivals.recover(job)
        return jobs

    def count(self, state: JobState) -> int:
        """Return how many active jobs are in ``state``."""
        return sum(job.state is state for job in self._active.values())

    def count_of(self, client: str) -> int:
        """Return how many active jobs are ``client``'s."""
        return sum(job.client == client for job in self._active.values())

    def active(self) -> list[Job]:
        """Return the active jobs, oldest first."""
        return sorted(self._active.values(), key=lambda job: job.created)

    async def add(self, job: Job, key: SubmissionKey | None = None) -> None:
        """Add a new job; it is on disk when this returns.

        Args:
            job: the job.
            key: recorded with it, see `JobStore.put`.

        Raises:
            KeyTakenError: the owner has this key already.
            NoSpaceError: the job can't be recorded.
        """
        self._active[job.id] = job
        self.arrivals.add(job)
        self._untold.add(job.id)
        try:
            await self._put(job, key)
        except asyncio.CancelledError:
            # The record may be written anyway, but no caller gets the job's id.
            self._drop(job.id)
            await asyncio.shield(self._store.delete(job.id))
            raise
        except BaseException:
            self._drop(job.id)
            raise
        finally:
            self._untold.discard(job.id)
        self._updates.tell(job, state=True)

    def take_up(self, job: Job) -> None:
        """Add a job that is recorded already, and waits to be done here."""
        job = replace(job, state=JobState.QUEUED, progress=0, started=None, device=None)
        self._active[job.id] = job
        self.arrivals.add(job)
        self._updates.tell(job, state=True)

    def is_ending(self, job_id: str) -> bool:
        """Tell whether the end of a job is being recorded."""
        return job_id in self._ending

    async def _put(self, job: Job, key: SubmissionKey | None = None) -> None:
        messages = self._messages(job)
        await self._store.put(job, key, messages=messages)
        if messages:
            self.on_messages(job)

    async def get(self, job_id: str) -> Job:
        """Return the job.

        Raises:
            UnknownJobError: there is none of this id.
        """
        job = self._active.get(job_id) or self.ended.peek(job_id)
        if job is None and is_job_id(job_id):
            job = await self._store.get(job_id)
        if job is None:
            raise UnknownJobError(NO_SUCH_JOB)
        return job

    def peek(self, job_id: str) -> Job | None:
        return self._active.get(job_id)

    async def advance(
        self,
        job_id: str,
        state: JobState,
        *,
        tidy: Tidy | None = None,
        **changes: Any,
    ) -> Job:
        """Bring an active job into its next state.

        Callers see an end only when it is on the disk. The change completes even if the caller is
        cancelled, and nothing else can change the job meanwhile.

        Args:
            job_id: the job.
            state: its next state.
            tidy: deletes files that the ended job does not need. It runs after the end is on the
                disk, so that a crash loses nothing, and before callers see it. When it fails, the
                job stays ended, and `EndedJobs.tidy_again` repeats it.
            changes: further fields of the job.

        Raises:
            NotUnderWayError: it has ended, or somebody else is ending it.
            ValueError: ``state`` cannot follow its present one.
            NoSpaceError: the state can't be recorded.
        """
        before = self._active.get(job_id)
        if before is None or job_id in self._ending:
            raise NotUnderWayError(job_id)
        if state in TERMINAL:
            changes["client"] = ""  # the address is no longer needed
        job = before.to(state, **changes)
        if state not in TERMINAL:
            self._active[job_id] = job
            self._updates.set_stage(job, None)
            self._untold.add(job_id)
            try:
                await self._put(job)
            finally:
                # Reported even when it can't be recorded: the next start queues the job too.
                self._tell_recorded(job_id)
            return job
        ending = asyncio.create_task(self._end(job, tidy), name=f"end-{job_id}")
        self._ending[job_id] = ending
        ending.add_done_callback(lambda _: self._ending.pop(job_id, None))
        await asyncio.shield(ending)
        return job

    def begin(self, job_id: str, **changes: Any) -> None:
        """Mark a queued job as processing; its record follows in the background.

        Work does not wait for the disk here. If the server dies before the record is written, the
        job is found queued.

        Raises:
            NotUnderWayError: it has ended, or somebody else is ending it.
            ValueError: it is not queued.
        """
        before = self._active.get(job_id)
        if before is None or job_id in self._ending:
            raise NotUnderWayError(job_id)
        self._active[job_id] = before.to(JobState.PROCESSING, **changes)
        self._untold.add(job_id)
        self._updates.set_position(before, None)
        recording = asyncio.create_task(self._record(job_id), name=f"record-{job_id}")
        self._recording.add(recording)
        recording.add_done_callback(self._recording.discard)

    async def _record(self, job_id: str) -> None:
        """Record that a job is processing; try until that succeeds or the job's state changes."""
        while (
            (job := self._active.get(job_id)) is not None
            and job.state is JobState.PROCESSING
            and job_id not in self._ending
        ):
            try:
                await self._put(job)
            except Exception as error:  # most likely a full disk; the work continues in any case
                log.error(
                    "job's beginning can't be recorded yet",
                    extra={"job": job_id, "reason": str(error)},
                )
                # Reported anyway: on a disk that stays full, progress would never be reported.
                self._tell_recorded(job_id)
                await asyncio.sleep(_RECORD_AGAIN_SECONDS)
            else:
                self._tell_recorded(job_id)
                return

    def _tell_recorded(self, job_id: str) -> None:
        """Report an active job's state, and the changes made while it was being recorded."""
        if job_id in self._untold:
            self._untold.discard(job_id)
            if (job := self._active.get(job_id)) is not None:
                self._updates.tell(job, state=True)

    async def add_completed(self, job: Job, key: SubmissionKey | None = None) -> None:
        """Add a new job whose result is there already; it is on disk when this returns.

        Args:
            job: the job.
            key: recorded with it, see `JobStore.put`.

        Raises:
            KeyTakenError: the owner has this key already.
            NoSpaceError: the job can't be recorded.
        """
        try:
            await self._put(job, key)
        except asyncio.CancelledError:
            await asyncio.shield(self._store.delete(job.id))
            raise
        self.ended.remember(job)
        self._updates.tell(job, state=True)
        self._updates.forget(job.id)

    def mirror(self, job_id: str, update: JobUpdate | None) -> None:
        """Show an active job as another one that does its work; only its record stays queued.

        Args:
            job_id: the job.
            update: of the other job; None: no job does its work, so it waits again.
        """
        job = self._active.get(job_id)
        if job is None or job_id in self._ending or (update is not None and update.ended):
            return
        other = replace(job, state=JobState.QUEUED, progress=0, started=None, device=None,
                        attempts=()) if update is None else update.job  # fmt: skip
        shown = replace(
            job,
            state=other.state,
            progress=min(other.progress, 99),
            started=other.started,
            device=other.device,
            attempts=other.attempts,
        )
        changed = self._updates.set_stage(job, None if update is None else update.stage)
        if shown.state is not JobState.QUEUED:
            self._updates.set_position(job, None)
        if shown != job or changed:
            self._active[job_id] = shown
            if job_id not in self._untold:
                self._updates.tell(shown, state=shown.state is not job.state)

    async def _end(self, job: Job, tidy: Tidy | None) -> None:
        await self._put(job)
        # The end is on disk and can't be undone: memory follows the disk.
        try:
            if tidy is not None:
                await self.ended.tidy(job.id, tidy)
        finally:
            self._drop(job.id)
            self._untold.discard(job.id)
            self.ended.remember(job)
            self._updates.set_stage(job, None)
            self._updates.set_position(job, None)
            self._updates.tell(job, state=True)
            self._updates.forget(job.id)

    def _drop(self, job_id: str) -> None:
        self._active.pop(job_id, None)
        self.arrivals.forget(job_id)

    async def still_under_way(self, job_id: str) -> bool:
        """Wait for an end that has begun; return whether the job is still active after it."""
        while (ending := self._ending.get(job_id)) is not None:
            await asyncio.wait([ending])
        return job_id in self._active

    async def ends_done(self) -> None:
        """Wait for all ends that have begun; stop recording that jobs are processing."""
        for recording in self._recording:
            recording.cancel()
        while writing := {*self._ending.values(), *self._recording}:
            await asyncio.wait(writing)

    def amend(self, job_id: str, **changes: Any) -> None:
        """Change other fields of an active job than its state; recorded with its next state."""
        if (job := self._active.get(job_id)) is not None:
            self._change(replace(job, **changes))

    def _change(self, job: Job) -> None:
        self._active[job.id] = job
        if job.id not in self._untold:
            self._updates.tell(job)

    async def rewrite(self, job_id: str, **changes: Any) -> None:
        """Change other fields of an active job than its state, and record them.

        Raises:
            NotUnderWayError: it has ended, or somebody else is ending it.
            NoSpaceError: they can't be recorded.
        """
        if job_id not in self._active or job_id in self._ending:
            raise NotUnderWayError(job_id)
        self.amend(job_id, **changes)
        await self._put(self._active[job_id])

    def report_progress(self, job_id: str, percent: int) -> None:
        """Raise a job's progress to ``percent``; it never goes back and stops at 99."""
        job = self._active.get(job_id)
        if job is not None and job.progress < min(percent, 99):
            self._change(replace(job, progress=min(percent, 99)))

    def report_stage(self, job_id: str, stage: Stage) -> None:
        """Report the stage of an active job."""
        job = self._active.get(job_id)
        if job is not None and self._updates.set_stage(job, stage) and job_id not in self._untold:
            self._updates.tell(job)

    def report_positions(self, positions: Mapping[str, int]) -> None:
        """Tell the positions of queued jobs, by job id, to those who listen to them."""
        for job in self._updates.listened_to(self._active.values()):
            # A job that has just been started may still be among the positions.
            position = positions.get(job.id) if job.state is JobState.QUEUED else None
            if self._updates.set_position(job, position) and job.id not in self._untold:
                self._updates.tell(job)

    async def listened(self, on_listener: Callable[[], None]) -> None:
        """Wait until somebody listens to more than changes of state.

        Args:
            on_listener: called for each who begins to; the last one that was given counts.
        """
        self._updates.on_listener = on_listener
        await self._updates.listened.wait()

    @contextlib.asynccontextmanager
    async def subscribe(
        self, job_id: str, *, states_only: bool = False, after: int | None = None
    ) -> AsyncIterator[Subscription]:
        """Listen to a job: its present state first, then each change, the last one being its end.

        A change of state is reported after it is on disk. A listener that reads slowly may miss
        changes in between, never the end.

        Args:
            job_id: the job; one that has ended is reported once.
            states_only: leave out everything but changes of state.
            after: number of the update that the listener has already; it is not told again.

        Raises:
            UnknownJobError: there is none of this id.
        """
        subscription = Subscription(job_id, states_only=states_only)
        async with self._subscribed(subscription):
            job = await self.get(job_id)
            if job_id not in self._untold and subscription.empty:
                latest = self._updates.latest(job)
                if latest.sequence != after:
                    subscription.offer(latest)
            yield subscription

    @contextlib.asynccontextmanager
    async def subscribe_all(
        self,
        owner: str | None = None,
        *,
        states_only: bool = False,
        deletions: bool = False,
        after: int | None = None,
    ) -> AsyncIterator[Subscription]:
        """Listen to all jobs of ``owner`` (None: of everybody): the active ones, then each change.

        The iteration has no end. It raises `LaggedError` when the listener falls so far behind
        that ends of jobs would be lost; it can go on with a new subscription ``after`` the last
        update that it read.

        Args:
            owner: tell only this owner's jobs.
            states_only: leave out everything but changes of state.
            deletions: tell of deleted jobs too; `Subscription.change` then returns what is next.
            after: number of the last update that the listener has. It is told the ends and
                deletions since then, and of the active jobs those that changed.
        """
        subscription = Subscription(owner=owner, states_only=states_only, deletions=deletions)
        now: list[Change] = [
            self._updates.latest(job) for job in self.active() if job.id not in self._untold
        ]
        if after is not None:
            # Numbers of the future are from before the clock was set back: report everything.
            after = after if after <= self._updates.sequence else 0
            now = [update for update in now if update.sequence > after]
            now += self._updates.ends_after(after)
            now += self._updates.deletions_after(after) if deletions else ()
        subscription.begin(change for change in now if owner in {None, change.owner})
        async with self._subscribed(subscription):
            yield subscription

    @contextlib.asynccontextmanager
    async def _subscribed(self, subscription: Subscription) -> AsyncIterator[None]:
        self._updates.open(subscription)
        try:
            yield
        finally:
            self._updates.close(subscription)

    def progress(self, job_id: str) -> int:
        """Return the progress of an active job in percent; 0 for any other."""
        job = self._active.get(job_id)
        return job.progress if job is not None else 0

    async def settled(self, job_id: str) -> Job:
        """Wait until the job has ended and return it.

        Raises:
            UnknownJobError: there is none of this id.
        """
        async with self.subscribe(job_id, states_only=True) as updates:
            async for update in updates:
                job = update.job
        return job

    async def page(
        self, wanted: JobFilter, after: tuple[float, str] | None, limit: int
    ) -> list[Job]:
        """Return jobs as they are now, see `JobStore.page`."""
        if wanted.state in ACTIVE:  # the store's records are behind, see `begin` and `mirror`
            return self._active_page(wanted, after, limit)
        found = await self._store.page(wanted, after, limit)
        return [self._active.get(j.id) or self.ended.unrecorded(j.id) or j for j in found]

    def _active_page(
        self, wanted: JobFilter, after: tuple[float, str] | None, limit: int
    ) -> list[Job]:
        found = [
            job
            for job in self._active.values()
            if wanted.matches(job)
            and (after is None or (job.created, job.id) < after)
            # One that is being recorded is not accepted yet.
            and not (job.id in self._untold and job.state is JobState.QUEUED)
        ]
        return sorted(found, key=lambda job: (job.created, job.id), reverse=True)[:limit]
