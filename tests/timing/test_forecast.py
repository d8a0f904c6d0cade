import itertools

import pytest

from upscaled.jobs.order import FifoOrder, Waiting
from upscaled.jobs.queue import JobQueue
from upscaled.timing.estimator import Estimate
from upscaled.timing.forecast import Forecaster, Outlook


class House:
    """A queue and its forecaster, with a clock that is set by hand."""

    def __init__(self, slots: int = 1, shares: int = 1) -> None:
        self.now = 1000.0
        self.progress: dict[str, int] = {}
        self.queue = JobQueue(FifoOrder())
        self.forecaster = Forecaster(
            self.queue,
            slots,
            lambda job: self.progress.get(job, 1),  # what a job has that gets a slot
            lambda: self.now,
            shares=shares,
        )

    def add(
        self,
        name: str,
        upscale: float,
        prepare: float = 0.0,
        finish: float = 1.0,
        *,
        small: bool = False,
    ) -> None:
        estimate = Estimate(prepare, upscale, finish, load=0.0, measured=True)
        self.forecaster.expect(name, estimate, small=small)
        self.queue.put(Waiting(name, 0.0))

    async def begin(self, name: str) -> None:
        assert (await self.queue.take()).id == name
        self.forecaster.taken(name)
        self.forecaster.begun(name)

    def told(self, name: str) -> Outlook:
        outlook = self.forecaster.outlook(name)
        assert outlook is not None
        return outlook


async def test_jobs_that_wait_are_told_their_place_and_their_time() -> None:
    house = House()
    for name in "abc":
        house.add(name, 10.0)
    await house.begin("a")
    assert house.told("a") == Outlook(None, 11.0)
    assert house.told("b") == Outlook(1, 21.0)
    assert house.told("c") == Outlook(2, 31.0)
    assert house.forecaster.next_start() == 10.0
    assert house.forecaster.last_start() == 30.0
    house.now += 4
    assert house.told("c") == Outlook(2, 27.0)


async def test_a_job_that_is_prepared_already_still_has_its_place() -> None:
    house = House()
    for name in "abc":
        house.add(name, 10.0)
    await house.begin("a")
    await house.queue.take()
    house.forecaster.taken("b")
    assert (house.told("b").position, house.told("c").position) == (1, 2)


async def test_several_slots_share_the_queue() -> None:
    house = House(slots=2)
    for name, seconds in zip("abcd", (10.0, 4.0, 10.0, 1.0), strict=True):
        house.add(name, seconds)
    await house.begin("a")
    await house.begin("b")
    assert house.told("c") == Outlook(1, 15.0)
    assert house.told("d") == Outlook(2, 12.0)


async def test_its_own_pace_counts_the_more_the_further_a_job_is() -> None:
    house = House()
    house.add("a", 10.0, finish=0.0)
    await house.begin("a")
    house.now += 10
    house.progress["a"] = 50
    # By the estimate it should be done; by its pace it needs as long again.
    assert house.told("a").eta_seconds == pytest.approx(5.0, abs=0.1)
    house.now += 9
    house.progress["a"] = 95
    assert 0.9 < house.told("a").eta_seconds < 1.0


async def test_an_idle_device_waits_for_the_decoding() -> None:
    house = House()
    house.add("a", 10.0, prepare=3.0)
    assert house.told("a") == Outlook(1, 14.0)


async def test_the_end_of_a_job_brings_the_others_forward() -> None:
    house = House()
    house.add("a", 100.0)
    house.add("b", 10.0)
    await house.begin("a")
    assert house.told("b").eta_seconds == 111.0
    house.forecaster.gone("a")
    house.now += 1
    assert house.told("b") == Outlook(1, 11.0)
    assert house.forecaster.outlook("a") is None


async def test_a_job_that_is_taken_now_comes_after_those_that_were_taken() -> None:
    house = House(slots=2)
    for name, seconds in zip("abc", (10.0, 4.0, 3.0), strict=True):
        house.add(name, seconds)
    assert house.forecaster.start_of_another() == 0.0
    await house.begin("a")
    await house.begin("b")
    assert house.forecaster.start_of_another() == 4.0
    await house.queue.take()
    house.forecaster.taken("c")
    assert house.forecaster.start_of_another() == 7.0


async def test_a_long_queue_is_not_played_through_for_every_question() -> None:
    house = House()
    plays = itertools.count()
    play = house.forecaster._play

    def counted(now: float) -> None:
        next(plays)
        play(now)

    house.forecaster._play = counted  # type: ignore[method-assign]
    for number in range(300):
        house.add(str(number), 1.0)
    for number in range(300):
        house.told(str(number))
    assert next(plays) == 1
    house.forecaster._cost = 1.0
    house.add("new", 1.0)
    assert house.told("new") == Outlook(301, 302.0)
    assert next(plays) == 2


async def test_jobs_that_share_a_slot_take_as_many_times_their_seconds() -> None:
    house = House()
    for name in "abcd":
        house.add(name, 10.0)
        await house.begin(name)
    assert house.forecaster.start_of_another() == 40.0
    assert house.told("a") == Outlook(None, 41.0)
    house.now += 20
    assert house.forecaster.start_of_another() == 20.0
    house.progress |= dict.fromkeys("abc", 95)  # those are encoded
    assert house.forecaster.start_of_another() == 5.0  # the slot's seconds are now its own


async def test_small_jobs_are_taken_as_long_as_there_is_room_beside_others() -> None:
    house = House(shares=3)
    for name in "abcd":
        house.add(name, 60.0, small=True)
    for name in "abc":
        assert house.forecaster.start_of_another() == 0.0
        await house.begin(name)
    assert house.forecaster.start_of_another() == 180.0


async def test_nothing_is_taken_to_go_beside_a_large_job() -> None:
    house = House(shares=3)
    house.add("large", 60.0)
    await house.begin("large")
    assert house.forecaster.start_of_another() == 60.0


async def test_a_job_of_a_single_tile_comes_closer_to_its_end_by_the_clock() -> None:
    house = House()
    house.add("a", 60.0)
    await house.begin("a")
    house.now += 40
    assert house.told("a") == Outlook(None, 21.0)
    house.now += 30
    assert house.told("a") == Outlook(None, 0.0)


async def test_a_job_that_is_tried_again_after_its_inference_holds_a_slot() -> None:
    house = House()
    house.add("a", 60.0)
    await house.begin("a")
    house.progress["a"] = 95
    assert house.forecaster.start_of_another() == 0.0
    house.forecaster.begun("a")
    assert house.forecaster.start_of_another() == 60.0


async def test_what_was_shared_before_is_not_forgotten_when_others_have_left() -> None:
    house = House()
    for name in "ab":
        house.add(name, 10.0)
        await house.begin(name)
    house.now += 18
    house.forecaster.gone("b")
    house.now += 0.5
    assert house.told("a") == Outlook(None, 1.5)
