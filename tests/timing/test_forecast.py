import itertools

import pytest

from testkit.forecasts import ForecastHarness
from upscaled.timing.forecast import Outlook


async def test_jobs_that_wait_are_told_their_place_and_their_time() -> None:
    harness = ForecastHarness()
    for name in "abc":
        harness.add(name, 10.0)
    await harness.begin("a")
    assert harness.told("a") == Outlook(None, 11.0)
    assert harness.told("b") == Outlook(1, 21.0)
    assert harness.told("c") == Outlook(2, 31.0)
    assert harness.forecaster.next_start() == 10.0
    assert harness.forecaster.last_start() == 30.0
    harness.now += 4
    assert harness.told("c") == Outlook(2, 27.0)


async def test_a_job_that_is_prepared_already_still_has_its_place() -> None:
    harness = ForecastHarness()
    for name in "abc":
        harness.add(name, 10.0)
    await harness.begin("a")
    await harness.queue.take()
    harness.forecaster.taken("b")
    assert (harness.told("b").position, harness.told("c").position) == (1, 2)


async def test_several_slots_share_the_queue() -> None:
    harness = ForecastHarness(slots=2)
    for name, seconds in zip("abcd", (10.0, 4.0, 10.0, 1.0), strict=True):
        harness.add(name, seconds)
    await harness.begin("a")
    await harness.begin("b")
    assert harness.told("c") == Outlook(1, 15.0)
    assert harness.told("d") == Outlook(2, 12.0)


async def test_its_own_pace_counts_the_more_the_further_a_job_is() -> None:
    harness = ForecastHarness()
    harness.add("a", 10.0, finish=0.0)
    await harness.begin("a")
    harness.now += 10
    harness.progress["a"] = 50
    # The estimate says it should be done; at its actual speed it needs as long again.
    assert harness.told("a").eta_seconds == pytest.approx(5.0, abs=0.1)
    harness.now += 9
    harness.progress["a"] = 95
    assert 0.9 < harness.told("a").eta_seconds < 1.0


async def test_an_idle_device_waits_for_the_decoding() -> None:
    harness = ForecastHarness()
    harness.add("a", 10.0, prepare=3.0)
    assert harness.told("a") == Outlook(1, 14.0)


async def test_the_end_of_a_job_brings_the_others_forward() -> None:
    harness = ForecastHarness()
    harness.add("a", 100.0)
    harness.add("b", 10.0)
    await harness.begin("a")
    assert harness.told("b").eta_seconds == 111.0
    harness.forecaster.gone("a")
    harness.now += 1
    assert harness.told("b") == Outlook(1, 11.0)
    assert harness.forecaster.outlook("a") is None


async def test_a_job_that_is_taken_now_comes_after_those_that_were_taken() -> None:
    harness = ForecastHarness(slots=2)
    for name, seconds in zip("abc", (10.0, 4.0, 3.0), strict=True):
        harness.add(name, seconds)
    assert harness.forecaster.start_of_another() == 0.0
    await harness.begin("a")
    await harness.begin("b")
    assert harness.forecaster.start_of_another() == 4.0
    await harness.queue.take()
    harness.forecaster.taken("c")
    assert harness.forecaster.start_of_another() == 7.0


async def test_a_long_queue_is_not_played_through_for_every_question() -> None:
    harness = ForecastHarness()
    plays = itertools.count()
    play = harness.forecaster._play

    def counted(now: float) -> None:
        next(plays)
        play(now)

    harness.forecaster._play = counted  # type: ignore[method-assign]
    for number in range(300):
        harness.add(str(number), 1.0)
    for number in range(300):
        harness.told(str(number))
    assert next(plays) == 1
    harness.forecaster._cost = 1.0
    harness.add("new", 1.0)
    assert harness.told("new") == Outlook(301, 302.0)
    assert next(plays) == 2


async def test_jobs_that_share_a_slot_take_as_many_times_their_seconds() -> None:
    harness = ForecastHarness()
    for name in "abcd":
        harness.add(name, 10.0)
        await harness.begin(name)
    assert harness.forecaster.start_of_another() == 40.0
    assert harness.told("a") == Outlook(None, 41.0)
    harness.now += 20
    assert harness.forecaster.start_of_another() == 20.0
    harness.progress |= dict.fromkeys("abc", 95)  # those are encoded
    assert harness.forecaster.start_of_another() == 5.0  # the slot's seconds are now its own


async def test_small_jobs_are_taken_as_long_as_there_is_room_beside_others() -> None:
    harness = ForecastHarness(shares=3)
    for name in "abcd":
        harness.add(name, 60.0, small=True)
    for name in "abc":
        assert harness.forecaster.start_of_another() == 0.0
        await harness.begin(name)
    assert harness.forecaster.start_of_another() == 180.0


async def test_nothing_is_taken_to_go_beside_a_large_job() -> None:
    harness = ForecastHarness(shares=3)
    harness.add("large", 60.0)
    await harness.begin("large")
    assert harness.forecaster.start_of_another() == 60.0


async def test_a_job_of_a_single_tile_comes_closer_to_its_end_by_the_clock() -> None:
    harness = ForecastHarness()
    harness.add("a", 60.0)
    await harness.begin("a")
    harness.now += 40
    assert harness.told("a") == Outlook(None, 21.0)
    harness.now += 30
    assert harness.told("a") == Outlook(None, 0.0)


async def test_a_job_that_is_tried_again_after_its_inference_holds_a_slot() -> None:
    harness = ForecastHarness()
    harness.add("a", 60.0)
    await harness.begin("a")
    harness.progress["a"] = 95
    assert harness.forecaster.start_of_another() == 0.0
    harness.forecaster.begun("a")
    assert harness.forecaster.start_of_another() == 60.0


async def test_what_was_shared_before_is_not_forgotten_when_others_have_left() -> None:
    harness = ForecastHarness()
    for name in "ab":
        harness.add(name, 10.0)
        await harness.begin(name)
    harness.now += 18
    harness.forecaster.gone("b")
    harness.now += 0.5
    assert harness.told("a") == Outlook(None, 1.5)
