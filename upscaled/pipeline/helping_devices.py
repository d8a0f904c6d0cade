"""Helping devices: idle ones of the same model do bands of a large picture too."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from upscaled.engines.pool import HELP, EnginePool, Place, Slot
from upscaled.errors import EngineError

log = logging.getLogger(__name__)

Rows = tuple[int, int]
"""The first row of the source, and the one after the last."""


class HelpingDevices:
    """Divides the bands of a picture between the device of its slot and others like it.

    Others help only while no job waits for them: after each band, a job gets their slot first. Each
    device takes the next band that nobody does, so few bands are done before their turn to be
    finished.

    Args:
        pool: has the slots.
        job_id: for the log.
        bands: the rows of the bands, from the first to the last.
        do: lets the engine of a slot do the rows of a band.
        reached: called with the row before which all rows are done.
        on_help: called with the place of another device that has done a band.
    """

    def __init__(
        self,
        pool: EnginePool,
        job_id: str,
        bands: Sequence[Rows],
        *,
        do: Callable[[Slot, Rows], Awaitable[None]],
        reached: Callable[[int], None],
        on_help: Callable[[Place], None],
    ) -> None:
        self._pool = pool
        self._job_id = job_id
        self._unfinished = deque(bands)
        """In order; the first ones may be under way."""
        self._waiting = deque(bands)
        self._done: set[Rows] = set()
        self._do = do
        self._reached = reached
        self._on_help = on_help
        self._news = asyncio.Event()

    async def run(self, slot: Slot, others: Sequence[Place]) -> None:
        """Do all bands.

        Args:
            slot: has the device that does what no other one does.
            others: where others may help.

        Raises:
            EngineError: the slot's engine failed.
        """
        tasks = [
            asyncio.create_task(self._help(place), name=f"help-{self._job_id}-{place.device.id}")
            for place in others
        ]
        try:
            while self._unfinished:
                self._news.clear()
                if self._waiting:
                    await self._do_next(slot)
                else:  # others do the last bands, or fail
                    await self._news.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for task in tasks:
                if not task.cancelled() and (error := task.exception()) is not None:
                    log.error("a device's help broke", extra={"job": self._job_id}, exc_info=error)

    async def _help(self, place: Place) -> None:
        """Do bands on another device while it is idle."""
        while self._waiting:
            async with self._pool.slot(HELP, place) as slot:
                if not self._waiting:
                    return
                try:
                    await self._do_next(slot)
                except EngineError as error:
                    log.warning(
                        "a device can't help with a picture",
                        extra={
                            "job": self._job_id,
                            "device": place.device.id,
                            "reason": error.message,
                        },
                    )
                    await slot.engine.reset()
                    return
            self._on_help(place)

    async def _do_next(self, slot: Slot) -> None:
        rows = self._waiting.popleft()
        try:
            await self._do(slot, rows)
            self._done.add(rows)
        finally:
            if rows not in self._done:
                self._waiting.appendleft(rows)
            self._news.set()
        while self._unfinished and self._unfinished[0] in self._done:
            self._reached(self._unfinished.popleft()[1])
