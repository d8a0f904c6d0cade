"""The forecast: simulates the queue with the estimates to predict when each job is ready."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from upscaled.jobs.queue import JobQueue
from upscaled.pipeline.run import UPSCALED_PERCENT
from upscaled.timing.estimator import Estimate

_MOST_SHARE = 0.02
"""Largest share of the server's time for forecasts: long queues are forecast less often."""
_FRESH_SECONDS = 0.25
"""A forecast younger than this is not repeated, whatever has changed."""
_CHEAP_SECONDS = 0.002
"""A forecast that takes no longer than this is repeated for a job that is not in it yet."""
_STALE_SECONDS = 5.0
"""A forecast older than this is repeated even without changes: jobs run faster or slower than
estimated."""


@dataclass(frozen=True)
class Outlook:
    """The forecast of one job."""

    position: int | None
    """1: the next to hold a slot; None: it holds one."""
    eta_seconds: float
    """Until its result can be downloaded."""


@dataclass
class _Expected:
    estimate: Estimate
    small: bool
    begun: float | None = None
    """When it got its slot, by the clock."""
    worked: float = 0.0
    """The same, in seconds of work for each of a slot's jobs."""
    progress: int = 0
    """Percentage when it got its slot: from an earlier attempt, or from preparation."""


class Forecaster:
    """Forecasts when the active jobs will be ready.

    Args:
        queue: the waiting jobs.
        slots: how many jobs are upscaled at a time.
        progress: returns the percentage of a job by its id.
        shares: how many small jobs may share a slot.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        queue: JobQueue,
        slots: int,
        progress: Callable[[str], int],
        clock: Callable[[], float] = time.monotonic,
        *,
        shares: int = 1,
    ) -> None:
        self._shares = shares
        self._worked = 0.0
        self._looked = clock()
        self._crowd_seen = 1.0
        self._queue = queue
        self.slots = slots
        """How many jobs are upscaled at a time."""
        self._progress = progress
        self._clock = clock
        self._expected: dict[str, _Expected] = {}
        self._taken: dict[str, None] = {}
        self._running: dict[str, bool] = {}
        self._outlooks: dict[str, tuple[int, float]] = {}
        self._next_start = 0.0
        self._last_start = 0.0
        self._made = float("-inf")
        self._cost = 0.0
        self._seen = -1

    def expect(self, job_id: str, estimate: Estimate, *, small: bool = False) -> None:
        """Add a job that was queued; a small one can share a slot with other small ones."""
        self._expected[job_id] = _Expected(estimate, small)
        self._queue.touch()

    def taken(self, job_id: str) -> None:
        """Record that a job has left the queue and is being prepared."""
        if job_id in self._expected:
            self._taken[job_id] = None
            self._queue.touch()

    def defer(self, job_id: str) -> None:
        """Record that a job waits for something other than a slot."""
        self._work()
        self._taken.pop(job_id, None)
        self._running.pop(job_id, None)
        self._crowd_seen = self._crowd()
        self._queue.touch()

    def begun(self, job_id: str, *, in_slot: bool = True) -> None:
        """Record that a job is being worked on, in one of the slots or elsewhere."""
        expected = self._expected.get(job_id)
        if expected is not None:
            self._taken.pop(job_id, None)
            self._running[job_id] = in_slot
            expected.begun = self._clock()
            expected.worked = self._work()
            expected.progress = self._progress(job_id)
            self._crowd_seen = self._crowd()
            self._queue.touch()

    def gone(self, job_id: str) -> None:
        """Forget a job that has ended."""
        self._work()
        for known in (self._expected, self._taken, self._running, self._outlooks):
            known.pop(job_id, None)
        self._crowd_seen = self._crowd()
        self._queue.touch()

    def outlook(self, job_id: str) -> Outlook | None:
        """Return the forecast of a job; None if it is not active."""
        if job_id not in self._expected:
            return None
        if job_id in self._running:
            return Outlook(None, self._remaining(job_id))
        self._refresh(again=job_id not in self._outlooks and self._cost <= _CHEAP_SECONDS)
        found = self._outlooks.get(job_id)
        if found is None:  # it came after the forecast, and counts as last until the next one
            estimate = self._expected[job_id].estimate
            found = len(self._outlooks) + 1, self._last_start + estimate.total
        return Outlook(found[0], max(0.0, found[1] - self._clock()))

    def positions(self) -> Mapping[str, int]:
        """Return the positions of waiting jobs by id, from the last forecast."""
        self._refresh()
        return {job_id: place for job_id, (place, _) in self._outlooks.items()}

    @property
    def up_to_date(self) -> bool:
        """Whether nothing has changed since the last forecast."""
        return self._seen == self._queue.version

    def last_start(self) -> float:
        """Return after how many seconds a new job, queued last, would get a slot."""
        self._refresh()
        return max(0.0, self._last_start - self._clock())

    def start_of_another(self) -> float:
        """Return after how many seconds a job taken from the queue now would get a slot.

        A small job starts immediately if it fits beside other small jobs.
        """
        head = self._queue.head()
        together = [*self._holders(), *self._taken, *([head.id] if head else [])]
        if len(together) <= self.slots * self._shares and all(
            job_id in self._expected and self._expected[job_id].small for job_id in together
        ):
            return 0.0
        now = self._clock()
        slots = self._slot_ends(now)
        for job_id in self._taken:
            heapq.heapreplace(slots, slots[0] + self._expected[job_id].estimate.upscale)
        return slots[0] - now

    def next_start(self) -> float:
        """Return after how many seconds the next waiting job gets a slot."""
        self._refresh()
        return max(0.0, self._next_start - self._clock())

    def _remaining(self, job_id: str) -> float:
        """Return the seconds a running job still needs.

        The further it is, the more its own speed counts relative to the estimate.
        """
        expected = self._expected[job_id]
        estimate = expected.estimate
        assert expected.begun is not None  # noqa: S101 - it runs
        elapsed = self._clock() - expected.begun
        ahead = estimate.upscale - (self._work() - expected.worked)
        foreseen = max(0.0, ahead * (self._crowd() if ahead > 0 else 1) + estimate.finish)
        done = self._progress(job_id) - expected.progress
        share = done / (100 - expected.progress)
        if share <= 0:
            return foreseen
        by_pace = elapsed * (1 - share) / share
        return (1 - share) * foreseen + share * by_pace

    def _holders(self) -> list[str]:
        """Return the jobs that hold slots; jobs that are being encoded have given theirs back."""
        return [
            job_id
            for job_id, in_slot in self._running.items()
            if in_slot and not self._is_upscaled(job_id)
        ]

    def _is_upscaled(self, job_id: str) -> bool:
        progress = self._progress(job_id)
        return progress >= UPSCALED_PERCENT and progress > self._expected[job_id].progress

    def _crowd(self) -> float:
        """Return how many jobs share a slot; each takes that many times as long."""
        return max(1.0, len(self._holders()) / self.slots)

    def _work(self) -> float:
        """Return the seconds of work that each of a slot's jobs has had since the start."""
        now = self._clock()
        self._worked += (now - self._looked) / self._crowd_seen
        self._looked, self._crowd_seen = now, self._crowd()
        return self._worked

    def _refresh(self, *, again: bool = False) -> None:
        now = self._clock()
        age = now - self._made
        seen = self._queue.version
        changed = seen != self._seen or age >= _STALE_SECONDS
        due = changed and age >= max(_FRESH_SECONDS, self._cost / _MOST_SHARE)
        if not (due or again):
            return
        began = time.perf_counter()
        self._play(now)
        self._cost = time.perf_counter() - began
        self._made, self._seen = now, seen

    def _slot_ends(self, now: float) -> list[float]:
        """Return a heap of the times at which the slots become free."""
        crowd = self._crowd()
        slots = [now] * self.slots
        left = [
            max(0.0, self._remaining(job_id) - self._expected[job_id].estimate.finish) / crowd
            for job_id in self._holders()
        ]
        for seconds in sorted(left, reverse=True):
            heapq.heapreplace(slots, slots[0] + seconds)
        return slots

    def _play(self, now: float) -> None:
        """Assign the slots to the waiting jobs in order."""
        slots = self._slot_ends(now)
        self._next_start = slots[0]
        self._outlooks = {}
        waiting = [*self._taken, *(job.id for job in self._queue.ahead())]
        position = 0
        for job_id in waiting:
            expected = self._expected.get(job_id)
            if expected is None:
                continue
            position += 1
            estimate = expected.estimate
            # Other jobs are prepared while slots are in use, so only an idle device waits for
            # preparation.
            start = max(heapq.heappop(slots), now + estimate.prepare)
            heapq.heappush(slots, start + estimate.upscale)
            self._outlooks[job_id] = (position, start + estimate.upscale + estimate.finish)
        self._last_start = slots[0]
