import asyncio

from testkit.forecasts import ForecastHarness
from upscaled.service.prefetch import AHEAD_SECONDS, Prefetcher


async def test_no_more_are_taken_than_one_beyond_the_slots() -> None:
    harness = ForecastHarness()
    ahead = Prefetcher(1, harness.forecaster)
    places = []
    for _ in range(2):
        await ahead.wait()
        places.append(ahead.place())
    third = asyncio.create_task(ahead.wait())
    await asyncio.wait([third], timeout=0)
    assert not third.done()
    places[0].leave()
    places[0].leave()
    await third
    assert [place.rank for place in places] == [0, 1]


async def test_while_a_long_job_runs_nothing_is_taken_so_that_small_ones_can_still_pass() -> None:
    harness = ForecastHarness()
    ahead = Prefetcher(1, harness.forecaster)
    harness.add("long", 300.0)
    await harness.begin("long")
    waiting = asyncio.create_task(ahead.wait())
    await asyncio.wait([waiting], timeout=0)
    assert not waiting.done()
    harness.now += 301.0 - AHEAD_SECONDS
    ahead.look()
    await waiting


async def test_a_free_slot_goes_to_the_one_taken_first_though_another_is_decoded_sooner() -> None:
    ahead = Prefetcher(2, ForecastHarness().forecaster)
    log: list[str] = []

    async def work(name: str, decoded: asyncio.Event) -> None:
        await ahead.wait()
        place = ahead.place()
        await decoded.wait()
        await place.turn()
        log.append(name)
        place.leave()

    slow, quick = asyncio.Event(), asyncio.Event()
    tasks = [asyncio.create_task(work("first", slow)), asyncio.create_task(work("second", quick))]
    quick.set()
    await asyncio.wait(tasks, timeout=0)
    slow.set()
    await asyncio.gather(*tasks)
    assert log == ["first", "second"]


async def test_one_that_fails_while_it_is_decoded_holds_nobody_up() -> None:
    ahead = Prefetcher(2, ForecastHarness().forecaster)
    await ahead.wait()
    failed = ahead.place()
    await ahead.wait()
    following = ahead.place()
    failed.leave()
    await following.turn()
