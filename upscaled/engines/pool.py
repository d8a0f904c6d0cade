"""The slots: each is the right to run one job on a device; they are granted in order."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType

from upscaled.engines.engine import Device, Engine
from upscaled.engines.traits import ENGINES, EngineTraits

_BESIDE_SECONDS = 60.0
"""How long an engine outside the slots is kept for the next preview, with its models loaded."""

HELP = math.inf
"""The order of a request for a slot that helps with another slot's job: it comes after all jobs."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """One engine on one device, where an attempt at a job runs."""

    engine: str
    """The engine's name, as in `EngineTraits`."""
    device: Device

    @property
    def traits(self) -> EngineTraits:
        """What distinguishes its engine."""
        return ENGINES[self.engine]

    @property
    def is_cpu(self) -> bool:
        """True for inference on the CPU."""
        return self.device.index is None

    def is_like(self, other: Place) -> bool:
        """Tell whether both are the same engine on devices of the same model."""
        mine, its = self.device, other.device
        return (self.engine, mine.kind, mine.name) == (other.engine, its.kind, its.name)


@dataclass(eq=False)
class _SharedEngine:
    """An engine, and how much of its capacity is in use."""

    engine: Engine
    used: int = 0
    """In shares: a small job takes one, any other job all."""


@dataclass(frozen=True, eq=False)
class Slot:
    """The right to run one job on a device, with the engine for it."""

    place: Place
    engine: Engine
    shares: int
    """1: the job has the engine for itself. Otherwise this many small jobs may use it at once."""
    part: float
    """How much of the engine's capacity the job has, up to 1."""
    _shared: _SharedEngine
    _taken: int


@dataclass(eq=False)
class _PlaceSlots:
    """All slots of one place."""

    place: Place
    make_engine: Callable[[], Engine]
    unmade: int
    """Engines that are made when they are first needed."""
    shares: int = 1
    """How many small jobs may share a slot."""
    engines: list[_SharedEngine] = field(default_factory=list)

    @property
    def is_usable(self) -> bool:
        """Whether any engine of it can do a task, now or when it is free."""
        return bool(self.unmade) or any(one.engine.unusable is None for one in self.engines)

    @property
    def has_free(self) -> bool:
        """Whether a job could have a slot of it for itself."""
        return bool(self.unmade) or any(
            not one.used and one.engine.unusable is None for one in self.engines
        )

    def take(self, *, small: bool, even_unusable: bool) -> Slot | None:
        """Return a slot; None if there is none free.

        Args:
            small: the job takes one share, not all.
            even_unusable: an engine that is unusable will do, if there is no other.
        """
        wanted = self._shares_of(small=small)
        # The fullest engine that has enough left, so that others stay free for jobs that need all.
        for one in sorted(self.engines, key=lambda one: -one.used):
            if one.used + wanted <= self.shares and one.engine.unusable is None:
                return self._grant(one, small=small)
        if self.unmade:
            self.unmade -= 1
            self.engines.append(_SharedEngine(self.make_engine()))
            return self._grant(self.engines[-1], small=small)
        for one in self.engines if even_unusable else ():
            if one.used + wanted <= self.shares:
                return self._grant(one, small=small)
        return None

    def _shares_of(self, *, small: bool) -> int:
        return 1 if small else self.shares

    def _grant(self, one: _SharedEngine, *, small: bool) -> Slot:
        taken = self._shares_of(small=small)
        one.used += taken
        part = taken / self.shares
        return Slot(self.place, one.engine, self.shares if small else 1, part, one, taken)


@dataclass(order=True)
class _SlotRequest:
    """A job that waits for a slot."""

    order: float
    number: int
    place: Place | None = field(compare=False)
    small: bool = field(compare=False)
    granted: asyncio.Future[Slot] = field(compare=False)


class EnginePool:
    """The engines of all devices. An engine is made when first needed, and kept.

    Args:
        places: where jobs run, best first, with the number of slots and a maker of engines.
        spares: where a job may be retried, and where jobs run while no engine of ``places`` is
            usable; one slot each.
        shared: how many small jobs may share a slot of a place; 1 if a place is not named.
    """

    def __init__(
        self,
        places: Sequence[tuple[Place, int, Callable[[], Engine]]],
        spares: Sequence[tuple[Place, Callable[[], Engine]]] = (),
        shared: Mapping[Place, int] = MappingProxyType({}),
    ) -> None:
        self._places = [
            _PlaceSlots(place, make, slots, shared.get(place, 1)) for place, slots, make in places
        ]
        self._spares = [_PlaceSlots(place, make, 1) for place, make in spares]
        self._requests: list[_SlotRequest] = []
        self._beside: Engine | None = None
        self._beside_turn = asyncio.Lock()
        self._ending: asyncio.Task[None] | None = None
        self._numbers = itertools.count()
        self._busy: dict[Place, float] = dict.fromkeys(self.all_places, 0.0)
        self._held: dict[Slot, float] = {}

    @property
    def places(self) -> tuple[Place, ...]:
        """Where jobs run unless they are retried elsewhere, best first."""
        return tuple(slots.place for slots in self._places)

    @property
    def all_places(self) -> tuple[Place, ...]:
        """All places where a job may be tried, in order of preference."""
        return tuple(slots.place for slots in [*self._places, *self._spares])

    def like(self, place: Place) -> Place | None:
        """Return a place for jobs whose pixels are those of ``place``, which may be of another run
        or machine; None: there is none.
        """
        return next((one for one in self.places if one.is_like(place)), None)

    def twins(self, place: Place) -> tuple[Place, ...]:
        """Return the other devices of the same model, whose pixels are those of ``place``."""
        return tuple(one for one in self.places if one != place and one.is_like(place))

    @property
    def unusable(self) -> Mapping[Place, str]:
        """The places of which an engine is unusable, each with the reason as a sentence."""
        return {
            slots.place: reason
            for slots in [*self._places, *self._spares]
            for one in slots.engines
            if (reason := one.engine.unusable) is not None
        }

    def shares(self, place: Place) -> int:
        """Return how many small jobs may share a slot of ``place``."""
        return next(slots.shares for slots in self._places if slots.place == place)

    @property
    def slots(self) -> int:
        """How many jobs can run at the same time, none of them small."""
        return sum(slots.unmade + len(slots.engines) for slots in self._places)

    @property
    def most_at_once(self) -> int:
        """How many jobs can run at the same time, all of them small."""
        return sum((slots.unmade + len(slots.engines)) * slots.shares for slots in self._places)

    @asynccontextmanager
    async def slot(
        self, order: float, place: Place | None = None, *, small: bool = False
    ) -> AsyncIterator[Slot]:
        """Hold a slot for the length of the block.

        Args:
            order: the smaller number is served first.
            place: where; None: the first place with a free, usable engine.
            small: the job can share a slot with other small jobs.
        """
        with self._holding(await self._acquire(order, place, small=small)) as slot:
            yield slot

    @contextmanager
    def _holding(self, slot: Slot) -> Iterator[Slot]:
        """Count a slot as busy for the length of the block, then give it back."""
        began = self._held[slot] = time.monotonic()
        try:
            yield slot
        finally:
            del self._held[slot]
            self._busy[slot.place] += slot.part * (time.monotonic() - began)
            self._release(slot)

    def busy_seconds(self) -> dict[Place, float]:
        """Return how long slots of each place were held, in total.

        A small job that shares a slot counts for its share.
        """
        now, busy = time.monotonic(), dict(self._busy)
        for slot, began in self._held.items():
            busy[slot.place] += slot.part * (now - began)
        return busy

    @asynccontextmanager
    async def slot_beside(self) -> AsyncIterator[Slot]:
        """Hold a slot for something short that waits for no job.

        If an engine of a place is free, it is that one, with its models loaded. Otherwise it is an
        engine outside the slots, which takes one task at a time. It ends when it is not used for
        `_BESIDE_SECONDS`.
        """
        free = self._free_slot()
        if free is not None:
            with self._holding(free) as slot:
                yield slot
            return
        async with self._beside_turn:
            await self._keep_beside()
            best = self._places[0]
            if self._beside is None or self._beside.unusable is not None:
                await self._end_beside()
                self._beside = best.make_engine()
            try:
                yield Slot(best.place, self._beside, 1, 1.0, _SharedEngine(self._beside), 0)
            finally:
                self._ending = asyncio.create_task(self._end_later(), name="engine-outside-slots")

    @contextmanager
    def idle_slot(self, place: Place) -> Iterator[Slot | None]:
        """Hold a slot of ``place`` for the length of the block; None if a job has or wants it."""
        free = self._free_slot(place)
        if free is None:
            yield None
            return
        with self._holding(free) as slot:
            yield slot

    def is_idle(self, place: Place) -> bool:
        """Tell whether a slot of ``place`` is free and no job waits."""
        return not self._has_waiting and any(
            slots.place == place and slots.has_free for slots in self._places
        )

    @property
    def _has_waiting(self) -> bool:
        """Whether a job waits for a slot."""
        waiting = (request for request in self._requests if not request.granted.done())
        return any(request.order < HELP for request in waiting)

    def _free_slot(self, place: Place | None = None) -> Slot | None:
        """Return a slot that no job holds or waits for, of ``place`` if it is given."""
        if self._has_waiting:
            return None
        for slots in self._places:
            if place is not None and slots.place != place:
                continue
            slot = slots.take(small=False, even_unusable=False)
            if slot is not None:
                return slot
        return None

    async def _keep_beside(self) -> None:
        """Do not end the engine outside the slots yet; called by the holder of its turn."""
        if self._ending is not None:
            self._ending.cancel()
            await asyncio.wait({self._ending})
            self._ending = None

    async def _end_later(self) -> None:
        await asyncio.sleep(_BESIDE_SECONDS)
        async with self._beside_turn:  # so that no one cancels this while the engine ends
            await self._end_beside()

    async def _end_beside(self) -> None:
        engine, self._beside = self._beside, None
        if engine is not None:
            await engine.close()

    async def _acquire(self, order: float, place: Place | None, *, small: bool) -> Slot:
        granted = asyncio.get_running_loop().create_future()
        request = _SlotRequest(order, next(self._numbers), place, small, granted)
        heapq.heappush(self._requests, request)
        self._match()
        try:
            return await request.granted
        except asyncio.CancelledError:
            if request.granted.done() and not request.granted.cancelled():
                self._release(request.granted.result())
            else:
                self._match()  # others may have waited behind this request only
            raise

    def _release(self, slot: Slot) -> None:
        slot._shared.used -= slot._taken
        if slot.engine.unusable is not None:
            slot.engine.when_usable(self._match)
        self._match()

    def _match(self) -> None:
        """Grant free slots to the waiting requests, in their order.

        A later request gets nothing of a place that an earlier one waits for. Otherwise a stream of
        small jobs could keep a large one from ever having a slot for itself.
        """
        unserved: list[_SlotRequest] = []
        waited_for: set[_PlaceSlots] = set()
        while self._requests:
            request = heapq.heappop(self._requests)
            if request.granted.done():  # cancelled while it waited
                continue
            wanted = self._candidates(request.place)
            slot = None
            for slots in wanted:
                if slots not in waited_for:
                    # A request for a certain place gets the engine's own error if it is unusable.
                    slot = slots.take(small=request.small, even_unusable=request.place is not None)
                if slot is not None:
                    break
            if slot is None:
                unserved.append(request)
                waited_for.update(wanted)
            else:
                request.granted.set_result(slot)
        self._requests = unserved  # popped in order, so still a heap

    def _candidates(self, place: Place | None) -> list[_PlaceSlots]:
        """Return the slots that a request for ``place`` may get, best first."""
        everywhere = [*self._places, *self._spares]
        if place is not None:
            return [slots for slots in everywhere if slots.place == place]
        usable = any(slots.is_usable for slots in self._places)
        return self._places if usable else everywhere

    async def close(self) -> None:
        """End all engines."""
        async with self._beside_turn:
            await self._keep_beside()
            await self._end_beside()
        engines = [one.engine for slots in [*self._places, *self._spares] for one in slots.engines]
        for outcome in await asyncio.gather(
            *(engine.close() for engine in engines), return_exceptions=True
        ):
            if isinstance(outcome, Exception):
                log.error("An engine did not end cleanly.", exc_info=outcome)
