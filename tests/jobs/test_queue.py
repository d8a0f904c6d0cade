import asyncio

from upscaled.jobs.order import FifoOrder, Waiting
from upscaled.jobs.queue import JobQueue


def a_queue(*names: str) -> JobQueue:
    queue = JobQueue(FifoOrder())
    for name in names:
        queue.put(Waiting(name, 0.0))
    return queue


async def test_jobs_leave_in_their_order() -> None:
    queue = a_queue("a", "b", "c")
    assert [job.id for job in queue.ahead()] == ["a", "b", "c"]
    assert [(await queue.take()).id for _ in range(3)] == ["a", "b", "c"]


async def test_taking_waits_until_a_job_comes() -> None:
    queue = a_queue()
    taking = asyncio.create_task(queue.take())
    queue.put(Waiting("a", 0.0))
    assert (await taking).id == "a"
    assert len(queue) == 0


async def test_a_removed_job_is_not_given_out() -> None:
    queue = a_queue("a", "b")
    assert queue.remove("a")
    assert not queue.remove("a")
    assert (await queue.take()).id == "b"


async def test_a_cancelled_taker_loses_no_job() -> None:
    queue = a_queue()
    taking = asyncio.create_task(queue.take())
    await asyncio.wait([taking], timeout=0)
    taking.cancel()
    queue.put(Waiting("a", 0.0))
    await asyncio.wait([taking])
    assert (await queue.take()).id == "a"


async def test_every_change_shows_in_the_version() -> None:
    queue = a_queue()
    versions = [queue.version]
    queue.put(Waiting("a", 0.0))
    versions.append(queue.version)
    await queue.take()
    versions.append(queue.version)
    assert len(set(versions)) == 3
