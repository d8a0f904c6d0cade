"""Several requests at once to one worker, of which some kill it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from testkit.child_processes import gone, wait_for_exit
from testkit.gate import Gate
from testkit.paths import ROOT
from upscaled.workers.client import WorkerClient
from upscaled.workers.errors import (
    WorkerDiedError,
    WorkerRefusedError,
)
from upscaled.workers.server import Message


@pytest.fixture
async def shared() -> AsyncIterator[WorkerClient]:
    """A worker that does three requests at once."""
    made = WorkerClient("testkit.workers.echo", name="echo", arguments=["3"], cwd=ROOT, at_once=3)
    yield made
    await made.close()


class Asking:
    """A request that ends only when `let_go` is called."""

    def __init__(self, worker: WorkerClient, tmp_path: Path, name: str) -> None:
        self._changed = asyncio.Event()
        self._gate = Gate(tmp_path / name)
        self.begun = 0
        self.task = asyncio.create_task(
            worker.request(
                {"do": "wait for", "gate": str(self._gate.path), "text": name},
                on_event=self._on_event,
            ),
            name=name,
        )
        self.task.add_done_callback(lambda _: self._gate.close())

    def _on_event(self, _: Message) -> None:
        self.begun += 1
        self._changed.set()

    async def is_under_way(self, times: int = 1) -> None:
        """Wait until the worker has begun this request so often."""
        while self.begun < times:
            self._changed.clear()
            await self._changed.wait()

    def let_go(self) -> None:
        self._gate.open()


async def test_requests_are_under_way_at_once_where_the_worker_was_made_for_that(
    shared: WorkerClient, tmp_path: Path
) -> None:
    asking = [Asking(shared, tmp_path, name) for name in "abc"]
    for one in asking:
        await one.is_under_way()
    assert not any(one.task.done() for one in asking)
    for one in reversed(asking):
        one.let_go()
        reply = await one.task
        assert reply == {"pid": shared.pid, "echo": one.task.get_name()}


async def test_who_is_taken_along_by_a_cancellation_is_asked_again_unnoticed(
    shared: WorkerClient, tmp_path: Path
) -> None:
    cancelled, stays = (Asking(shared, tmp_path, name) for name in ("cancelled", "stays"))
    await cancelled.is_under_way()
    await stays.is_under_way()
    before = shared.pid
    cancelled.task.cancel()
    await asyncio.wait([cancelled.task])
    assert gone(before)
    stays.let_go()
    reply = await stays.task
    assert (reply["echo"], stays.begun) == ("stays", 2)
    assert reply["pid"] not in {before, None}


async def test_who_was_taken_along_once_cannot_be_taken_along_again(
    shared: WorkerClient, tmp_path: Path
) -> None:
    cancelled, stays = (Asking(shared, tmp_path, name) for name in ("cancelled", "stays"))
    await cancelled.is_under_way()
    await stays.is_under_way()
    cancelled.task.cancel()
    await asyncio.wait([cancelled.task])
    await stays.is_under_way(2)
    late = Asking(shared, tmp_path, "late")
    with pytest.raises(TimeoutError):  # it waits until the other has ended
        async with asyncio.timeout(0.2):
            await late.is_under_way()
    late.task.cancel()
    await asyncio.wait([late.task])
    stays.let_go()
    assert (await stays.task)["echo"] == "stays"
    assert stays.begun == 2


@pytest.mark.parametrize("turns", range(8))
async def test_two_cancellations_close_to_each_other_both_return_when_the_worker_is_gone(
    shared: WorkerClient, tmp_path: Path, turns: int
) -> None:
    first, second = (Asking(shared, tmp_path, name) for name in ("first", "second"))
    await first.is_under_way()
    await second.is_under_way()
    pid = shared.pid
    first.task.cancel()
    for _ in range(turns):
        await asyncio.sleep(0)
    second.task.cancel()
    await asyncio.wait([second.task])
    assert gone(pid)
    await asyncio.wait([first.task])


async def test_an_answer_that_is_none_ends_the_request() -> None:
    worker = WorkerClient("testkit.workers.babbling", name="babbling", cwd=ROOT)
    with pytest.raises(TypeError):
        await worker.request({}, timeout=20)
    assert worker.pid is None
    await worker.close()


async def test_only_the_request_that_kills_a_worker_is_blamed(
    shared: WorkerClient, tmp_path: Path
) -> None:
    innocent = [Asking(shared, tmp_path, name) for name in "ab"]
    for one in innocent:
        await one.is_under_way()
    before = shared.pid
    guilty = asyncio.create_task(shared.request({"do": "die"}), name="guilty")
    assert before is not None
    await wait_for_exit(before)
    for one in innocent:
        one.let_go()
    with pytest.raises(WorkerDiedError) as caught:
        await guilty
    assert caught.value.last_words == "the very last words"
    assert [(await one.task)["echo"] for one in innocent] == ["a", "b"]


async def test_many_requests_among_which_some_kill_all_come_to_their_own_end(
    shared: WorkerClient,
) -> None:
    wishes = ["", "die", "", "refuse", "", "crash", "", "", "events", ""]
    ends = await asyncio.gather(
        *(shared.request({"do": wish, "text": str(n)}) for n, wish in enumerate(wishes)),
        return_exceptions=True,
    )
    for number, (wish, end) in enumerate(zip(wishes, ends, strict=True)):
        match wish:
            case "die" | "crash":
                assert isinstance(end, WorkerDiedError)
            case "refuse":
                assert isinstance(end, WorkerRefusedError)
            case _:
                assert isinstance(end, dict)
                assert end["echo"] == str(number)
