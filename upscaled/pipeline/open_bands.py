"""Open bands: those of a picture that are not done, divided between its device and helpers."""

from __future__ import annotations

import asyncio
import bisect
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from upscaled.engines.engine import UpscaleTask
from upscaled.engines.pool import Place
from upscaled.imaging import EncodedBody, FinishOptions

log = logging.getLogger(__name__)

Rows = tuple[int, int]
"""The first row of the source, and the one after the last."""


class OpenBands:
    """The bands of a picture that are to be done.

    Each helper takes the next band that nobody does, so few bands are done before their turn to be
    finished.

    Args:
        bands: their rows, from the first to the last.
        reached: called with the row before which all rows are done.
        has_room: tells whether a band may be done before more are finished; `look` is called when
            that changes.
    """

    def __init__(
        self,
        bands: Sequence[Rows],
        reached: Callable[[int], None],
        has_room: Callable[[int, int], bool] = lambda _top, _bottom: True,
    ) -> None:
        self._unfinished = deque(bands)
        """In order; the first ones may be under way."""
        self._waiting = list(bands)
        self._done: set[Rows] = set()
        self._reached = reached
        self._has_room = has_room
        self._watchers: list[asyncio.Future[None]] = []
        self.idle_since: float | None = None
        """Since when the picture's device waits for helpers, by `time.monotonic`; None: it does
        not."""
        self.slowest = 0.0
        """The most seconds that the picture's device took for a band so far."""

    @property
    def waiting(self) -> int:
        """How many bands nobody does, of those for which there is room."""
        return sum(self._has_room(*rows) for rows in self._waiting)

    @property
    def untaken(self) -> int:
        """How many bands nobody does."""
        return len(self._waiting)

    def look(self) -> None:
        """Wake those that wait in `changed`."""
        for watcher in self._watchers:
            if not watcher.done():
                watcher.set_result(None)
        self._watchers.clear()

    async def changed(self) -> None:
        """Wait until a band is done, given back or finished."""
        watcher = asyncio.get_running_loop().create_future()
        self._watchers.append(watcher)
        await watcher

    def take(self) -> Rows:
        """Return the next band that nobody does, to be finished or given back by the caller."""
        return self._waiting.pop(0)

    def give_back(self, rows: Rows) -> None:
        """Let others do a band that was taken."""
        bisect.insort(self._waiting, rows)
        self.look()

    def finish(self, rows: Rows) -> None:
        """Record that a band is done."""
        self._done.add(rows)
        while self._unfinished and self._unfinished[0] in self._done:
            self._reached(self._unfinished.popleft()[1])
        self.look()

    async def do_next(self, do: Callable[[Rows], Awaitable[None]]) -> None:
        """Take the next band and do it; give it back if that fails.

        Raises:
            Exception: what ``do`` raises.
        """
        rows = self.take()
        try:
            await do(rows)
        except BaseException:
            self.give_back(rows)
            raise
        self.finish(rows)

    async def do_all(
        self, do: Callable[[Rows], Awaitable[None]], helpers: Mapping[str, Helper]
    ) -> None:
        """Do all bands.

        Args:
            do: lets the picture's own device do a band.
            helpers: do bands too, each by the name of its task. Their failures cost time only.

        Raises:
            EngineError: the picture's own device failed.
        """
        tasks = [
            asyncio.create_task(helper.help(self), name=name) for name, helper in helpers.items()
        ]
        try:
            while self._unfinished:
                if self.waiting:
                    self.idle_since, began = None, time.monotonic()
                    await self.do_next(do)
                    self.slowest = max(self.slowest, time.monotonic() - began)
                else:  # others do the last bands or give them back, or there is no room for more
                    self.idle_since = self.idle_since or time.monotonic()
                    await self.changed()
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
            for task in tasks:
                if not task.cancelled() and (error := task.exception()) is not None:
                    log.error("%s broke", task.get_name(), exc_info=error)


class Helper(Protocol):
    """Does bands of a picture beside the picture's own device."""

    async def help(self, bands: OpenBands) -> None:
        """Do bands until there are none, or this is cancelled; give back what is not done then."""
        ...


@dataclass(frozen=True)
class SharedPicture:
    """A picture whose bands other workers may do, and how."""

    job_id: str
    model_name: str
    work: str
    """The `checkpoint.work_key` of its work."""
    whole: UpscaleTask
    """With the tile size that all use."""
    options: FinishOptions
    """How its result is written."""
    place: Place
    """Where its own device is."""
    on_done: Callable[[Rows, float, EncodedBody | None], None]
    """Called with the rows that another worker has done, its engine time, and what it has encoded
    of them."""


class OtherWorkers(Protocol):
    """The other workers of a cluster, as far as they can help with a picture."""

    def can_help(self, job_id: str, model_name: str, place: Place) -> bool:
        """Tell whether any worker has the model, and a device that makes the bytes of ``place``."""
        ...

    def helper(self, picture: SharedPicture) -> Helper:
        """Return the helper that has them do bands of a picture."""
        ...


class NoOtherWorkers:
    """The other workers on a single machine: there are none."""

    def can_help(self, job_id: str, model_name: str, place: Place) -> bool:
        del job_id, model_name, place
        return False

    def helper(self, picture: SharedPicture) -> Helper:
        raise AssertionError(f"there is no other worker to help with {picture.job_id}")
