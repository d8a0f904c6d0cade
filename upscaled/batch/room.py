"""`Room`: upscales where there may be no room for several pictures at a time."""

from __future__ import annotations

import asyncio

from upscaled.batch.events import Progressed, Report
from upscaled.batch.upscaler import Made, Task, Upscaler
from upscaled.errors import NoMemoryError, UpscaledError

_NO_ROOM = frozenset({"insufficient_storage", "queue_full"})
"""Codes of refusals that may pass when another picture ends."""


class _RefusedError(Exception):
    """There is no room for a picture now; ``error`` says so."""

    def __init__(self, error: UpscaledError) -> None:
        super().__init__(error.message)
        self.error = error


class Room:
    """Repeats what was refused for want of room when something else has ended.

    Args:
        upscaler: makes the results.
        report: called with the progress of each picture.
    """

    def __init__(self, upscaler: Upscaler, report: Report) -> None:
        self._upscaler = upscaler
        self._report = report
        self._busy = 0
        self._ends = 0
        self._one_by_one = asyncio.Lock()
        self._one_ended = asyncio.Condition()

    async def upscale(self, task: Task) -> Made:
        """Upscale; where there is no room for it, try again whenever another picture ended.

        When all under way are refused, each is tried alone, and then its refusal is final.
        """
        while True:
            ends = self._ends
            try:
                return await self._attempt(task)
            except _RefusedError:
                pass
            async with self._one_ended:
                await self._one_ended.wait_for(lambda: self._ends > ends or not self._busy)  # noqa: B023 - awaited here
            if self._ends > ends:
                continue
            async with self._one_by_one:
                ends = self._ends
                try:
                    return await self._attempt(task)
                except _RefusedError as refused:
                    if self._ends == ends and not self._busy:
                        raise refused.error from None

    async def _attempt(self, task: Task) -> Made:
        """Upscale.

        Raises:
            _RefusedError: there is no room for it beside the others.
        """
        self._busy += 1
        ended = True
        try:
            return await self._upscaler.upscale(
                task, lambda percent: self._report(Progressed(task.source, percent))
            )
        except UpscaledError as error:
            if error.code not in _NO_ROOM or isinstance(error, NoMemoryError):
                raise
            ended = False  # what found no room makes none
            raise _RefusedError(error) from error
        finally:
            self._busy -= 1
            self._ends += ended
            async with self._one_ended:
                self._one_ended.notify_all()
