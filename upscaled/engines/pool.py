"""The slots: the right to run one job on a device, handed out in order."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType

from upscaled.engines.engine import Device, Engine

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


@dataclass(eq=False)
class _Station:
    """An engine, and how much of it is taken."""

    engine: Engine
    taken: int = 0
    """In parts, of which a small job takes one, any other all."""


@dataclass(frozen=True)
class Slot:
    """The right to run one job on a device, with the engine that does it."""

    place: Place
    engine: Engine
    shares: int
    """1: the engine is the job's alone. Else so many small jobs may use it at the same time."""
    _station: _Station
    _parts: int


@dataclass(eq=False)
class _Post:
    """All slots of one place."""

    place: Place
    make_engine: Callable[[], Engine]
    unmade: int
    parts: int = 1
    """How many small jobs may share a slot."""
    stations: list[_Station] = field(default_factory=list)

    def take(self, *, small: bool) -> Slot | None:
        """Return a slot, None if there is none free."""
        parts = 1 if small else self.parts
        # The fullest that will do, so that others stay free for those who want all of one.
        for station in sorted(self.stations, key=lambda station: -station.taken):
            if station.taken + parts <= self.parts:
                break
        else:
            if not self.unmade:
                return None
            self.unmade -= 1
            station = _Station(self.make_engine())
            self.stations.append(station)
        station.taken += parts
        return Slot(self.place, station.engine, self.parts if small else 1, station, parts)


@dataclass(order=True)
class _Waiter:
    order: float
    number: int
    place: Place | None = field(compare=False)
    small: bool = field(compare=False)
    granted: asyncio.Future[Slot] = field(compare=False)


class EnginePool:
    """The engines of all devices. Engines are made when first needed and kept.

    Args:
        places: where jobs run, best first, with the number of slots and a maker of engines.
        spares: where a job may go when it failed on those (the CPU, say); one slot each.
        shared: how many small jobs may share a slot of a place; 1 where it is not named.
    """

    def __init__(
        self,
        places: Sequence[tuple[Place, int, Callable[[], Engine]]],
        spares: Sequence[tuple[Place, Callable[[], Engine]]] = (),
        shared: Mapping[Place, int] = MappingProxyType({}),
    ) -> None:
        self._posts = [
            _Post(place, make, slots, shared.get(place, 1)) for place, slots, make in places
        ]
        self._spares = [_Post(place, make, 1) for place, make in spares]
        self._waiters: list[_Waiter] = []
        self._numbers = itertools.count()

    @property
    def places(self) -> tuple[Place, ...]:
        """Where jobs run of themselves, best first."""
        return tuple(post.place for post in self._posts)

    @property
    def all_places(self) -> tuple[Place, ...]:
        """All places a job may be tried at, in the order of the ladder."""
        return tuple(post.place for post in [*self._posts, *self._spares])

    def shares(self, place: Place) -> int:
        """Return how many small jobs may share a slot of ``place``."""
        return next(post.parts for post in self._posts if post.place == place)

    @property
    def slots(self) -> int:
        """How many jobs can be upscaled at the same time, none of them small."""
        return sum(post.unmade + len(post.stations) for post in self._posts)

    @property
    def most_at_once(self) -> int:
        """How many jobs can be upscaled at the same time, all of them small."""
        return sum((post.unmade + len(post.stations)) * post.parts for post in self._posts)

    @asynccontextmanager
    async def slot(
        self, order: float, place: Place | None = None, *, small: bool = False
    ) -> AsyncIterator[Slot]:
        """Hold a slot for the length of the block.

        Args:
            order: who comes first when several wait: the smaller number.
            place: where; None: wherever one is free first.
            small: the job can share a slot with others like it.
        """
        slot = await self._acquire(order, place, small=small)
        try:
            yield slot
        finally:
            self._release(slot)

    async def _acquire(self, order: float, place: Place | None, *, small: bool) -> Slot:
        granted = asyncio.get_running_loop().create_future()
        waiter = _Waiter(order, next(self._numbers), place, small, granted)
        heapq.heappush(self._waiters, waiter)
        self._match()
        try:
            return await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.done() and not waiter.granted.cancelled():
                self._release(waiter.granted.result())
            else:
                self._match()  # others may have waited behind this one only
            raise

    def _release(self, slot: Slot) -> None:
        slot._station.taken -= slot._parts
        self._match()

    def _match(self) -> None:
        """Give free slots to those who wait, in their order.

        Who comes later gets nothing of a place that one before waits for: small jobs, one after
        the other, would else keep a large one from ever having a slot for itself.
        """
        unserved: list[_Waiter] = []
        waited_for: set[_Post] = set()
        while self._waiters:
            waiter = heapq.heappop(self._waiters)
            if waiter.granted.done():  # cancelled while it waited
                continue
            wanted = [
                post
                for post in ([*self._posts, *self._spares] if waiter.place else self._posts)
                if waiter.place in {None, post.place}
            ]
            slot = next(
                (
                    slot
                    for post in wanted
                    if post not in waited_for and (slot := post.take(small=waiter.small))
                ),
                None,
            )
            if slot is None:
                unserved.append(waiter)
                waited_for.update(wanted)
            else:
                waiter.granted.set_result(slot)
        self._waiters = unserved  # popped in order, so still a heap

    async def close(self) -> None:
        """End all engines."""
        engines = [
            station.engine for post in [*self._posts, *self._spares] for station in post.stations
        ]
        for outcome in await asyncio.gather(
            *(engine.close() for engine in engines), return_exceptions=True
        ):
            if isinstance(outcome, Exception):
                log.error("An engine did not end cleanly.", exc_info=outcome)
