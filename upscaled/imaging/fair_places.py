"""`FairPlaces`: shares a number of places fairly among callers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum


class PlaceKind(StrEnum):
    """The purpose of a place."""

    JOB = "job"
    """Work for an accepted job."""
    LOOK = "look"
    """Reading an upload, for a submission or an estimate."""


class FairPlaces:
    """A number of places that requests hold while they run.

    One place is reserved for each kind, so that neither blocks the other. Within a kind, the next
    free place goes to the caller who holds the fewest, and among those to the one served longest
    ago.

    Args:
        total: number of places, at least 2.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._held: Counter[tuple[PlaceKind, str]] = Counter()
        self._waiting: dict[tuple[PlaceKind, str], deque[asyncio.Future[None]]] = {}
        self._served: dict[tuple[PlaceKind, str], int] = {}
        self._turns = itertools.count(1)

    @property
    def free(self) -> int:
        return self._total - self._held.total()

    @asynccontextmanager
    async def hold(self, kind: PlaceKind, caller: str) -> AsyncIterator[None]:
        """Wait for a place and hold it during the block."""
        who = (kind, caller)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(who, deque()).append(turn)
        self._grant()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._forget(who, turn)
            else:  # it was granted at the same moment
                self._release(who)
            raise
        try:
            yield
        finally:
            self._release(who)

    def _grant(self) -> None:
        for kind in PlaceKind:  # jobs first
            while self.free and self._held_by(kind) < self._total - 1:
                callers = [who for who in self._waiting if who[0] is kind]
                if not callers:
                    break
                who = min(callers, key=lambda who: (self._held[who], self._served.get(who, 0)))
                turn = self._waiting[who][0]
                self._forget(who, turn)
                if turn.done():  # cancelled, but its task has not noticed yet
                    continue
                self._held[who] += 1
                self._served[who] = next(self._turns)
                turn.set_result(None)

    def _held_by(self, kind: PlaceKind) -> int:
        return sum(count for who, count in self._held.items() if who[0] is kind)

    def _release(self, who: tuple[PlaceKind, str]) -> None:
        self._held[who] -= 1
        self._tidy(who)
        self._grant()

    def _forget(self, who: tuple[PlaceKind, str], turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(who, deque())
        with contextlib.suppress(ValueError):
            turns.remove(turn)
        if not turns:
            self._waiting.pop(who, None)
        self._tidy(who)

    def _tidy(self, who: tuple[PlaceKind, str]) -> None:
        """Forget a caller who neither holds a place nor waits for one."""
        if self._held[who] <= 0:
            del self._held[who]
            if who not in self._waiting:
                self._served.pop(who, None)
