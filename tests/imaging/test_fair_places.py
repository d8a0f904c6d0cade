"""Places are shared fairly: between jobs and new uploads, and between callers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from testkit.waiting import settled
from upscaled.imaging.fair_places import FairPlaces, PlaceKind


class Crowd:
    """Requests that hold a place until they are released; ``order`` lists them as they got one."""

    def __init__(self, places: FairPlaces) -> None:
        self._places = places
        self.order: list[str] = []
        self._ends: list[tuple[str, asyncio.Event]] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def come(self, *callers: str, kind: PlaceKind = PlaceKind.LOOK) -> None:
        for caller in callers:
            self.tasks.append(asyncio.create_task(self._hold(kind, caller)))
        await settled()

    async def _hold(self, kind: PlaceKind, caller: str) -> None:
        async with self._places.hold(kind, caller):
            self.order.append(caller)
            end = asyncio.Event()
            self._ends.append((caller, end))
            await end.wait()

    async def end_one(self) -> None:
        """Release the request that has held its place longest."""
        self._ends.pop(0)[1].set()
        await settled()

    async def end_all(self) -> None:
        while self._ends:
            await self.end_one()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.fixture
def crowd() -> Callable[[int], Crowd]:
    return lambda total: Crowd(FairPlaces(total))


async def test_a_caller_waits_for_no_more_than_one_request_of_somebody_else() -> None:
    for total in (2, 3, 5):
        crowd = Crowd(FairPlaces(total))
        await crowd.come(*["greedy"] * 20)
        assert crowd.order == ["greedy"] * (total - 1)
        await crowd.come("modest")
        await crowd.end_one()
        assert crowd.order[-1] == "modest"
        await crowd.end_all()


async def test_callers_take_turns() -> None:
    crowd = Crowd(FairPlaces(2))
    await crowd.come("a", "a", "a", "a", "b", "b", "c")
    for _ in range(6):
        await crowd.end_one()
    assert crowd.order == ["a", "b", "c", "a", "b", "a", "a"]
    await crowd.end_all()


@pytest.mark.parametrize(
    ("greedy", "other"), [(PlaceKind.JOB, PlaceKind.LOOK), (PlaceKind.LOOK, PlaceKind.JOB)]
)
async def test_one_place_is_kept_for_each_kind(greedy: PlaceKind, other: PlaceKind) -> None:
    crowd = Crowd(FairPlaces(3))
    await crowd.come(*"abcdef", kind=greedy)
    assert len(crowd.order) == 2
    await crowd.come("x", "y", kind=other)
    assert crowd.order == ["a", "b", "x"]
    await crowd.end_all()


async def test_a_place_is_not_given_to_one_who_was_just_cancelled() -> None:
    places = FairPlaces(2)
    crowd = Crowd(places)
    await crowd.come("a", "b", "c")
    for task in crowd.tasks:
        task.cancel()
    await asyncio.gather(*crowd.tasks, return_exceptions=True)
    assert places.free == 2
    await crowd.come("d")
    assert crowd.order == ["a", "d"]
    await crowd.end_all()


async def test_who_gives_up_gives_up_its_place_and_nothing_is_remembered() -> None:
    places = FairPlaces(2)
    crowd = Crowd(places)
    await crowd.come("a", "b", "c")
    crowd.tasks[1].cancel()
    await settled()
    await crowd.end_one()
    assert crowd.order == ["a", "c"]
    # Cancelled at the moment it gets its place.
    await crowd.come("d")
    crowd._ends.pop(0)[1].set()
    await asyncio.sleep(0)
    crowd.tasks[3].cancel()
    await crowd.end_all()
    assert places.free == 2
    assert not (places._held, places._waiting, places._served)[1]
    assert not places._held
    assert not places._served
    await crowd.come("e")
    assert crowd.order[-1] == "e"
    await crowd.end_all()
