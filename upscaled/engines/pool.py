"""The slots: the right to run one job on a device, handed out in order."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from upscaled.engines.protocol import Device, Engine

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """One way of doing inference on one device, as a rung of the ladder names it."""

    engine: str
    """``binary`` or ``builtin``."""
    device: Device

    @property
    def is_cpu(self) -> bool:
        """True for inference on the CPU."""
        return self.device.index is None


@dataclass
class Slot:
    """The right to run one job on a device, with the engine that does it."""

    place: Place
    engine: Engine


@dataclass
class _Post:
    """All slots of one place."""

    place: Place
    make_engine: Callable[[], Engine]
    free: list[Slot] = field(default_factory=list)
    unmade: int = 0
    engines: list[Engine] = field(default_factory=list)


@dataclass(order=True)
class _Waiter:
    order: float
    number: int
    place: Place | None = field(compare=False)
    granted: asyncio.Future[Slot] = field(compare=False)


class EnginePool:
    """The engines of all devices. Engines are made when first needed and kept.

    Args:
        places: where jobs run, best first, with the number of slots and a maker of engines.
        spares: where a job may go when it failed on those (the CPU, say); one slot each.
    """

    def __init__(
        self,
        places: Sequence[tuple[Place, int, Callable[[], Engine]]],
        spares: Sequence[tuple[Place, Callable[[], Engine]]] = (),
    ) -> None:
        self._posts = [_Post(place, make, unmade=slots) for place, slots, make in places]
        self._spares = [_Post(place, make, unmade=1) for place, make in spares]
        self._waiters: list[_Waiter] = []
        self._numbers = itertools.count()

    @property
    def places(self) -> tuple[Place, ...]:
        """Where jobs run of themselves, best first."""
        return tuple(post.place for post in self._posts)

    @property
    def ladder_places(self) -> tuple[Place, ...]:
        """All places a job may be tried at, in the order of the ladder."""
        return tuple(post.place for post in [*self._posts, *self._spares])

    @property
    def slots(self) -> int:
        """How many jobs can be upscaled at the same time."""
        return sum(post.unmade + len(post.engines) for post in self._posts)

    @asynccontextmanager
    async def slot(self, order: float, place: Place | None = None) -> AsyncIterator[Slot]:
        """Hold a slot for the length of the block.

        Args:
            order: who comes first when several wait: the smaller number.
            place: where; None: wherever one is free first.
        """
        slot = await self._acquire(order, place)
        try:
            yield slot
        finally:
            self._release(slot)

    async def _acquire(self, order: float, place: Place | None) -> Slot:
        waiter = _Waiter(
            order, next(self._numbers), place, asyncio.get_running_loop().create_future()
        )
        heapq.heappush(self._waiters, waiter)
        self._match()
        try:
            return await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.done() and not waiter.granted.cancelled():
                self._release(waiter.granted.result())
            raise

    def _release(self, slot: Slot) -> None:
        self._post(slot.place).free.append(slot)
        self._match()

    def _post(self, place: Place) -> _Post:
        return next(post for post in [*self._posts, *self._spares] if post.place == place)

    def _match(self) -> None:
        """Give free slots to those who wait, in their order."""
        unserved = []
        while self._waiters:
            waiter = heapq.heappop(self._waiters)
            if waiter.granted.done():  # cancelled while it waited
                continue
            posts = self._posts if waiter.place is None else [self._post(waiter.place)]
            slot = next((slot for post in posts if (slot := _take(post))), None)
            if slot is None:
                unserved.append(waiter)
            else:
                waiter.granted.set_result(slot)
        self._waiters = unserved  # popped in order, so still a heap

    async def close(self) -> None:
        """End all engines."""
        engines = [engine for post in [*self._posts, *self._spares] for engine in post.engines]
        for outcome in await asyncio.gather(
            *(engine.close() for engine in engines), return_exceptions=True
        ):
            if isinstance(outcome, Exception):
                log.error("An engine did not end cleanly.", exc_info=outcome)


def _take(post: _Post) -> Slot | None:
    if post.free:
        return post.free.pop()
    if post.unmade:
        post.unmade -= 1
        engine = post.make_engine()
        post.engines.append(engine)
        return Slot(post.place, engine)
    return None
