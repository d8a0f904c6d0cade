"""Prefetcher: which jobs are prepared before a slot is free for them, and their order for slots."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

from upscaled.timing.forecast import Forecaster

AHEAD_SECONDS = 10.0
"""So long before a slot is expected to be free the next job is taken from the queue: enough to
decode the largest picture, and one that comes later can still go before what waits."""

_LOOK_AGAIN_SECONDS = 1.0
"""How often that is looked at, since jobs run faster than was thought."""


class Place:
    """The place of a job that was taken from the queue and holds no slot yet."""

    def __init__(self, rank: int, room: asyncio.Semaphore, before: asyncio.Event) -> None:
        self.rank = rank
        """Slots are given in this order, whoever is decoded first."""
        self.passed = asyncio.Event()
        self._before = before
        self._room: asyncio.Semaphore | None = room

    async def turn(self) -> None:
        """Wait until the one before asks for a slot: who is decoded sooner must not get it."""
        await self._before.wait()
        self.passed.set()

    def leave(self) -> None:
        """Make the place free, once."""
        self.passed.set()
        if self._room is not None:
            self._room.release()
            self._room = None


class Prefetcher:
    """Decides when the next job leaves the queue. What has left it can't be overtaken any more.

    Args:
        slots: how many are upscaled at a time.
        forecaster: tells when a slot will be free.
    """

    def __init__(self, slots: int, forecaster: Forecaster) -> None:
        # One a slot is being prepared or ready, one more for when small ones leave quickly.
        self._room = asyncio.Semaphore(slots + 1)
        self._forecaster = forecaster
        self._ranks = itertools.count()
        self._ended = asyncio.Event()
        self._last = asyncio.Event()
        self._last.set()

    async def wait(self) -> None:
        """Wait until it is time to take a job from the queue; one `place` must follow."""
        await self._room.acquire()
        while (seconds := self._forecaster.start_of_another() - AHEAD_SECONDS) > 0:
            self._ended.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(seconds, _LOOK_AGAIN_SECONDS)):
                    await self._ended.wait()

    def place(self) -> Place:
        """Return the place of the job that was taken."""
        place = Place(next(self._ranks), self._room, self._last)
        self._last = place.passed
        return place

    def look(self) -> None:
        """Look again at once, since a job has ended."""
        self._ended.set()
