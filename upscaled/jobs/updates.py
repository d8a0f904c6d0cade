"""Updates: reports each change of a job to any number of listeners."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from upscaled.jobs.job import TERMINAL, Job

_PENDING = 256
"""Updates kept for a slow listener. Beyond that only the latest of each job is kept."""
_ENDS = 512
"""Ends of jobs, and deletions, that are kept for listeners that reconnect."""


class Stage(StrEnum):
    """The current work on a job that has left the queue."""

    PREPARING = "preparing"
    """The picture is decoded."""
    UPSCALING = "upscaling"
    """The job holds a slot; finished bands are verified and encoded meanwhile."""
    FINISHING = "finishing"
    """The slot is given back; the last bands are verified and encoded."""


@dataclass(frozen=True, slots=True)
class JobUpdate:
    """A job as it is after a change."""

    sequence: int
    """Microseconds since 1970 when it was reported, or one more than the number before. So it grows
    with every change of any job, also across restarts unless the clock is set back. Two updates
    with the same number show the same change."""
    job: Job
    stage: Stage | None = None
    """None before the job leaves the queue, and after its end."""
    position: int | None = None
    """1: the next to get a slot; None: the job does not wait, or its position is not known yet."""

    @property
    def job_id(self) -> str:
        return self.job.id

    @property
    def owner(self) -> str:
        return self.job.owner

    @property
    def ended(self) -> bool:
        """Whether this is the job's last update."""
        return self.job.state in TERMINAL


@dataclass(frozen=True, slots=True)
class JobDeletion:
    """The record of an ended job was deleted."""

    sequence: int
    """As of a `JobUpdate`."""
    job_id: str
    owner: str

    @property
    def ended(self) -> bool:
        """Like an end, it is told at once and never left out."""
        return True


Change = JobUpdate | JobDeletion


class LaggedError(Exception):
    """The listener reads so slowly that ends of jobs would be lost; it must subscribe again."""


class Subscription:
    """What one listener has not read yet, as an async iterator for one reader.

    Args:
        job_id: the job to listen to, after whose end the iteration stops; None: all jobs.
        owner: tell only this owner's jobs; None: everybody's.
        states_only: tell only changes of state.
        deletions: tell deletions too; the reader then calls `change`.
    """

    def __init__(
        self,
        job_id: str | None = None,
        owner: str | None = None,
        *,
        states_only: bool = False,
        deletions: bool = False,
    ) -> None:
        self.job_id = job_id
        self.owner = owner
        self.states_only = states_only
        self.deletions = deletions
        self._pending: deque[Change] = deque()
        self._arrived = asyncio.Event()
        self._end_arrived = asyncio.Event()
        self._lagged = False
        self._ended = False
        self._most = _PENDING

    def begin(self, changes: Iterable[Change]) -> None:
        """Add the listener's first changes; all of them are kept, however many."""
        for change in sorted(changes, key=_sequence_of):
            self._most += 1
            self.offer(change)

    def offer(self, change: Change) -> None:
        """Add a change. A listener that is far behind misses intermediate ones, never an end."""
        if len(self._pending) >= self._most:
            latest = _latest_of_each(self._pending)
            if len(latest) >= self._most:
                latest = [waiting for waiting in latest if waiting.ended]
            self._pending = deque(latest)
            self._lagged |= len(self._pending) >= self._most
        if self._lagged:
            self._pending.clear()
        else:
            self._pending.append(change)
        self._arrived.set()
        if change.ended or self._lagged:
            self._end_arrived.set()

    async def gather(self, seconds: float) -> None:
        """Collect updates until one is an end, for ``seconds`` at most.

        Then keep only the latest of each job, so that many listeners take little time.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._end_arrived.wait()
        if len(self._pending) > 1:
            self._pending = deque(_latest_of_each(self._pending))

    @property
    def empty(self) -> bool:
        """Whether the listener has read everything."""
        return not self._pending

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> JobUpdate:
        change = await self.change()
        assert isinstance(change, JobUpdate)  # noqa: S101 - nobody asked for deletions
        return change

    async def change(self) -> Change:
        """Return the next change.

        Raises:
            LaggedError: see there.
            StopAsyncIteration: the job has ended.
        """
        if self._ended:
            raise StopAsyncIteration
        while not self._pending:
            if self._lagged:
                raise LaggedError
            self._arrived.clear()
            await self._arrived.wait()
        change = self._pending.popleft()
        if not self._pending:
            self._end_arrived.clear()
        self._ended = self.job_id is not None and change.ended
        return change


def _sequence_of(change: Change) -> int:
    return change.sequence


def _latest_of_each(changes: Iterable[Change]) -> list[Change]:
    """Return the latest change of each job, in the order in which they were told."""
    return sorted({change.job_id: change for change in changes}.values(), key=_sequence_of)


class Updates:
    """Numbers changes and hands them to the subscriptions that want them."""

    def __init__(self) -> None:
        self.sequence = time.time_ns() // 1000
        """The highest number that was given."""
        self._ends: deque[JobUpdate] = deque()
        self.ends_known_after = self.sequence
        """`ends_after` knows all ends with a higher number."""
        self._deletions: deque[JobDeletion] = deque(maxlen=_ENDS)
        self._of_job: dict[str, int] = {}
        self._stages: dict[str, Stage] = {}
        self._positions: dict[str, int] = {}
        self._by_job: dict[str, list[Subscription]] = {}
        self._of_all: list[Subscription] = []
        self.listened = asyncio.Event()
        """Set while somebody listens to more than changes of state."""
        self.on_listener: Callable[[], None] = lambda: None
        """Called for each of those who do."""

    def open(self, subscription: Subscription) -> None:
        """Begin to offer updates to ``subscription``."""
        self._siblings(subscription).append(subscription)
        if not subscription.states_only:
            self.listened.set()
            self.on_listener()

    def close(self, subscription: Subscription) -> None:
        """Offer nothing more to ``subscription``."""
        siblings = self._siblings(subscription)
        siblings.remove(subscription)
        if subscription.job_id is not None and not siblings:
            del self._by_job[subscription.job_id]
        if all(other.states_only for other in self._subscriptions()):
            self.listened.clear()

    def _siblings(self, subscription: Subscription) -> list[Subscription]:
        if subscription.job_id is None:
            return self._of_all
        return self._by_job.setdefault(subscription.job_id, [])

    def _subscriptions(self) -> Iterator[Subscription]:
        yield from self._of_all
        for siblings in self._by_job.values():
            yield from siblings

    def latest(self, job: Job) -> JobUpdate:
        """Return the update that shows ``job`` as it is now."""
        sequence = self._of_job.get(job.id)
        if sequence is None:
            sequence = self._next()
            if job.state not in TERMINAL:
                self._of_job[job.id] = sequence
        return JobUpdate(sequence, job, self._stages.get(job.id), self._positions.get(job.id))

    def tell(self, job: Job, *, state: bool = False) -> None:
        """Number a change of ``job`` and tell it; ``state``: it is a change of its state."""
        self._of_job[job.id] = self._next()
        ends = state and job.state in TERMINAL
        if not ends and not self._by_job and not self._of_all:
            return
        update = self.latest(job)
        if ends:
            self._ends.append(update)
            if len(self._ends) > _ENDS:
                self.ends_known_after = self._ends.popleft().sequence
        for subscription in (*self._by_job.get(job.id, ()), *self._of_all):
            if (state or not subscription.states_only) and (
                subscription.owner is None or subscription.owner == job.owner
            ):
                subscription.offer(update)

    def tell_deleted(self, job_id: str, owner: str) -> None:
        """Number the deletion of an ended job and tell it to those who want to know."""
        deletion = JobDeletion(self._next(), job_id, owner)
        self._deletions.append(deletion)
        for subscription in self._of_all:
            if subscription.deletions and subscription.owner in {None, owner}:
                subscription.offer(deletion)

    def _next(self) -> int:
        self.sequence = max(self.sequence + 1, time.time_ns() // 1000)
        return self.sequence

    def ends_after(self, sequence: int) -> list[JobUpdate]:
        """Return the ends that were told after the number ``sequence``, as far as they are kept."""
        return [update for update in self._ends if update.sequence > sequence]

    def deletions_after(self, sequence: int) -> list[JobDeletion]:
        """Return the deletions after the number ``sequence``, as far as they are kept."""
        return [deletion for deletion in self._deletions if deletion.sequence > sequence]

    def set_stage(self, job: Job, stage: Stage | None) -> bool:
        """Record a job's stage; return whether it changed."""
        changed = self._stages.get(job.id) is not stage
        if stage is None:
            self._stages.pop(job.id, None)
        else:
            self._stages[job.id] = stage
        return changed

    def set_position(self, job: Job, position: int | None) -> bool:
        """Record a job's position; return whether it changed."""
        changed = self._positions.get(job.id) != position
        if position is None:
            self._positions.pop(job.id, None)
        else:
            self._positions[job.id] = position
        return changed

    def forget(self, job_id: str) -> None:
        """Forget a job that has ended."""
        for known in (self._of_job, self._stages, self._positions):
            known.pop(job_id, None)

    def listened_to(self, jobs: Iterable[Job]) -> list[Job]:
        """Return those of ``jobs`` whose progress somebody listens to."""
        owners = {s.owner for s in self._of_all if not s.states_only}
        return [
            job
            for job in jobs
            if None in owners
            or job.owner in owners
            or any(not s.states_only for s in self._by_job.get(job.id, ()))
        ]
