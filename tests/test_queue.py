import asyncio

from upscaled.queue import JobQueue


async def test_jobs_leave_in_the_order_they_came() -> None:
    queue = JobQueue()
    for name in "abc":
        queue.put(name)
    assert [await queue.take() for _ in range(3)] == ["a", "b", "c"]


async def test_taking_waits_until_a_job_comes() -> None:
    queue = JobQueue()
    taking = asyncio.create_task(queue.take())
    queue.put("a")
    assert await taking == "a"
    assert len(queue) == 0


async def test_a_removed_job_is_not_given_out() -> None:
    queue = JobQueue()
    queue.put("a")
    queue.put("b")
    assert queue.remove("a")
    assert not queue.remove("a")
    assert await queue.take() == "b"


async def test_a_cancelled_taker_loses_no_job() -> None:
    queue = JobQueue()
    taking = asyncio.create_task(queue.take())
    await asyncio.wait([taking], timeout=0)
    taking.cancel()
    queue.put("a")
    await asyncio.wait([taking])
    assert await queue.take() == "a"
