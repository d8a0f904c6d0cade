"""Prefetcher: prepares jobs before a slot is free, and keeps the order in which they get one."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

from upscaled.timing.forecast import Forecaster

AHEAD_SECONDS = 10.0
"""How long before a slot is expected to be free the next job leaves the queue. Enough to decode the
largest picture; a job that arrives later can still overtake those in the queue."""

_LOOK_AGAIN_SECONDS = 1.0
"""How often the expectation is checked, since jobs may run faster than estimated."""


class Turn:
    """The turn of a job that has left the queue and has no slot yet."""

    def __init__(self, rank: int, permits: asyncio.Semaphore, before: asyncio.Event) -> None:
        self.rank = rank
        """Slots are given in this order, whichever job is decoded first."""
        self.passed = asyncio.Event()
        self._before = before
        self._permits: asyncio.Semaphore | None = permits

    async def come(self) -> None:
        """Wait until the job before this one asks for a slot, so that none overtakes it."""
        await self._before.wait()
        self.passed.set()

    def leave(self) -> None:
        """Give the turn back; may be called more than once."""
        self.passed.set()
        if self._permits is not None:
            self._permits.release()
            self._permits = None


class Prefetcher:
    """Decides when the next job leaves the queue. After that, no other job can overtake it.

    Args:
        slots: how many jobs are upscaled at a time.
        forecaster: predicts when a slot will be free.
    """

    def __init__(self, slots: int, forecaster: Forecaster) -> None:
        # For each slot one job is being prepared or ready, and one more in case small jobs end
        # soon.
        self._permits = asyncio.Semaphore(slots + 1)
        self._forecaster = forecaster
        self._ranks = itertools.count()
        self._job_ended = asyncio.Event()
        self._last = asyncio.Event()
        self._last.set()

    async def next_turn(self) -> Turn:
        """Wait until it is time to take a job from the queue, and return its turn."""
        await self._permits.acquire()
        try:
            while (seconds := self._forecaster.start_of_another() - AHEAD_SECONDS) > 0:
                self._job_ended.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(seconds, _LOOK_AGAIN_SECONDS)):
                        await self._job_ended.wait()
        except BaseException:
            self._permits.release()
            raise
        turn = Turn(next(self._ranks), self._permits, self._last)
        self._last = turn.passed
        return turn

    def job_ended(self) -> None:
        """Check the expectation again immediately."""
        self._job_ended.set()
