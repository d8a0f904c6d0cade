import asyncio

from testkit.forecasts import ForecastHarness
from upscaled.service.prefetch import AHEAD_SECONDS, Prefetcher


async def test_no_more_are_taken_than_one_beyond_the_slots() -> None:
    harness = ForecastHarness()
    prefetcher = Prefetcher(1, harness.forecaster)
    turns = [await prefetcher.next_turn() for _ in range(2)]
    third = asyncio.create_task(prefetcher.next_turn())
    await asyncio.wait([third], timeout=0)
    assert not third.done()
    turns[0].leave()
    turns[0].leave()
    await third
    assert [turn.rank for turn in turns] == [0, 1]


async def test_while_a_long_job_runs_nothing_is_taken_so_that_small_ones_can_still_pass() -> None:
    harness = ForecastHarness()
    prefetcher = Prefetcher(1, harness.forecaster)
    harness.add("long", 300.0)
    await harness.begin("long")
    waiting = asyncio.create_task(prefetcher.next_turn())
    await asyncio.wait([waiting], timeout=0)
    assert not waiting.done()
    harness.now += 301.0 - AHEAD_SECONDS
    prefetcher.job_ended()
    await waiting


async def test_a_free_slot_goes_to_the_one_taken_first_though_another_is_decoded_sooner() -> None:
    prefetcher = Prefetcher(2, ForecastHarness().forecaster)
    log: list[str] = []

    async def work(name: str, decoded: asyncio.Event) -> None:
        turn = await prefetcher.next_turn()
        await decoded.wait()
        await turn.come()
        log.append(name)
        turn.leave()

    slow, quick = asyncio.Event(), asyncio.Event()
    tasks = [asyncio.create_task(work("first", slow)), asyncio.create_task(work("second", quick))]
    quick.set()
    await asyncio.wait(tasks, timeout=0)
    slow.set()
    await asyncio.gather(*tasks)
    assert log == ["first", "second"]


async def test_one_that_fails_while_it_is_decoded_holds_nobody_up() -> None:
    prefetcher = Prefetcher(2, ForecastHarness().forecaster)
    failed = await prefetcher.next_turn()
    following = await prefetcher.next_turn()
    failed.leave()
    await following.come()
