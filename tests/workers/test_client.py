"""A worker process stays while it works, and is certainly gone after a failure."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from testkit.child_processes import gone, wait_for_exit
from testkit.paths import ROOT
from testkit.unkillable import survive_sigkill
from upscaled.workers import processes
from upscaled.workers.client import WorkerClient
from upscaled.workers.environment import plain_env
from upscaled.workers.errors import (
    WorkerDiedError,
    WorkerRefusedError,
    WorkerShortageError,
    WorkerStuckError,
)
from upscaled.workers.server import Message


@pytest.fixture
async def worker() -> AsyncIterator[WorkerClient]:
    made = WorkerClient("testkit.workers.echo", name="echo", cwd=ROOT)
    yield made
    await made.close()


async def test_it_answers_and_stays(worker: WorkerClient) -> None:
    assert worker.pid is None
    first = await worker.request({"text": "grüße"})
    second = await worker.request({"text": "again"})
    assert first == {"pid": worker.pid, "echo": "grüße"}
    assert second == {"pid": worker.pid, "echo": "again"}


async def test_events_come_in_order_before_the_reply(worker: WorkerClient) -> None:
    events: list[Message] = []
    await worker.request({"do": "events"}, on_event=events.append)
    assert events == [{"number": 0}, {"number": 1}, {"number": 2}]


async def test_requests_at_the_same_time_wait_for_one_another(worker: WorkerClient) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(worker.request({"text": str(n)})) for n in range(20)]
    assert [task.result()["echo"] for task in tasks] == [str(n) for n in range(20)]
    assert {task.result()["pid"] for task in tasks} == {worker.pid}


async def test_what_libraries_print_is_no_answer(worker: WorkerClient) -> None:
    assert "pid" in await worker.request({"do": "print"})


async def test_a_refusal_reaches_the_caller_and_the_worker_lives_on(
    worker: WorkerClient,
) -> None:
    before = (await worker.request({}))["pid"]
    with pytest.raises(WorkerRefusedError, match="not like this") as caught:
        await worker.request({"do": "refuse"})
    assert caught.value.kind == "wrong"
    assert (await worker.request({}))["pid"] == before


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        ("die", 3, "the very last words"),
        ("crash", -11, ""),
        ("raise", 1, "ZeroDivisionError: nothing to divide by"),
    ],
)
async def test_a_worker_that_dies_in_a_request_is_reported_and_replaced(
    worker: WorkerClient, fault: str, status: int, words: str
) -> None:
    before = (await worker.request({}))["pid"]
    with pytest.raises(WorkerDiedError) as caught:
        await worker.request({"do": fault})
    assert caught.value.returncode == status
    assert caught.value.last_words == words
    assert gone(before)
    assert (await worker.request({}))["pid"] != before


async def test_a_worker_that_cannot_be_started_is_told_and_tried_again(
    worker: WorkerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    with monkeypatch.context() as patch:
        patch.setattr(processes, "start", refused)
        with pytest.raises(WorkerDiedError) as caught:
            await worker.request({})
    assert str(caught.value) == (
        "the echo process can't be started: Resource temporarily unavailable"
    )
    assert "pid" in await worker.request({})


async def test_a_worker_that_died_between_requests_is_replaced(worker: WorkerClient) -> None:
    before = (await worker.request({}))["pid"]
    os.kill(before, signal.SIGKILL)
    await wait_for_exit(before)
    assert (await worker.request({}))["pid"] != before


async def test_cancelling_a_request_kills_the_worker_first(worker: WorkerClient) -> None:
    begun = asyncio.Event()
    asking = asyncio.create_task(
        worker.request({"do": "hang"}, on_event=lambda _: begun.set()), name="asking"
    )
    await begun.wait()
    pid = worker.pid
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert gone(pid)
    assert worker.pid is None
    assert (await worker.request({"text": "well"}))["echo"] == "well"


async def test_a_request_that_only_waits_can_be_cancelled_without_harm(
    worker: WorkerClient,
) -> None:
    begun = asyncio.Event()
    first = asyncio.create_task(worker.request({"do": "hang"}, on_event=lambda _: begun.set()))
    await begun.wait()
    second = asyncio.create_task(worker.request({}))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert worker.pid is not None
    assert not first.done()
    first.cancel()
    await asyncio.wait([first])


async def test_a_request_out_of_time_kills_the_worker(worker: WorkerClient) -> None:
    pid = (await worker.request({}))["pid"]
    with pytest.raises(TimeoutError):
        await worker.request({"do": "hang"}, timeout=0.2)
    assert gone(pid)


async def test_an_event_callback_that_fails_kills_the_worker(worker: WorkerClient) -> None:
    def fail(_: Message) -> None:
        raise LookupError("my mistake")

    pid = (await worker.request({}))["pid"]
    with pytest.raises(LookupError):
        await worker.request({"do": "events"}, on_event=fail)
    assert gone(pid)


async def test_a_flood_on_standard_error_neither_blocks_nor_stays_in_memory(
    worker: WorkerClient,
) -> None:
    assert "pid" in await worker.request({"do": "flood"}, timeout=60)
    assert worker._process is not None
    assert len(worker._process._stderr) <= 4096


async def test_an_answer_longer_than_any_we_send_is_refused_not_kept(
    worker: WorkerClient,
) -> None:
    pid = (await worker.request({}))["pid"]
    with pytest.raises(ValueError, match="limit"):
        await worker.request({"do": "huge", "length": 5_000_000})
    assert gone(pid)


async def test_close_leaves_no_process_no_task_and_no_descriptor() -> None:
    async def once() -> None:
        worker = WorkerClient("testkit.workers.echo", name="echo", cwd=ROOT)
        pid = (await worker.request({}))["pid"]
        await worker.close()
        assert gone(pid)

    await once()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        await once()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_the_end_of_its_standard_input_ends_a_busy_worker(tmp_path: Path) -> None:
    import sys

    async with processes.running(
        [sys.executable, "-m", "testkit.workers.echo", str(os.getpid())],
        env=plain_env(),
        cwd=ROOT,
        stdin=True,
        stdout=True,
    ) as child:
        child.stdin.write(b'{"number":0,"request":{"do":"hang"}}\n')
        assert b"hanging" in await child.stdout.readline()
        child.stdin.close()
        async with asyncio.timeout(10):
            assert await child.wait() == 0


async def test_a_worker_that_survives_sigkill_holds_up_no_cancellation_and_no_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = WorkerClient("testkit.workers.echo", name="echo", cwd=ROOT, max_stuck=1)
    begun, usable = asyncio.Event(), asyncio.Event()
    asking = asyncio.create_task(
        worker.request({"do": "hang"}, on_event=lambda _: begun.set()), name="asking"
    )
    await begun.wait()
    pid = worker.pid
    assert pid is not None
    really_kill = survive_sigkill(monkeypatch)
    asking.cancel()
    async with asyncio.timeout(10):
        with pytest.raises(asyncio.CancelledError):
            await asking
        with pytest.raises(WorkerStuckError, match=str(pid)):
            await worker.request({})
        await worker.close()
    worker.when_usable(usable.set)
    really_kill(pid)
    async with asyncio.timeout(10):
        await usable.wait()
    monkeypatch.undo()
    assert (await worker.request({"text": "well"}))["echo"] == "well"
    await worker.close()


async def test_a_worker_that_holds_no_device_is_replaced_beside_one_that_survives_sigkill(
    worker: WorkerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = (await worker.request({}))["pid"]
    with monkeypatch.context() as patch:
        really_kill = survive_sigkill(patch)
        with pytest.raises(TimeoutError):
            await worker.request({"do": "hang"}, timeout=0.2)
        gone = asyncio.Event()
        worker._stuck[pid].when_gone(gone.set)
    assert (await worker.request({"text": "well"}))["echo"] == "well"
    really_kill(pid)
    async with asyncio.timeout(10):
        await gone.wait()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN])
async def test_a_shortage_at_the_start_of_a_worker_is_an_error_of_its_own(
    worker: WorkerClient, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    async def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(processes, "start", refused)
        with pytest.raises(WorkerShortageError):
            await worker.request({})
    assert "pid" in await worker.request({})


async def test_a_worker_cannot_be_started_without_descriptors(worker: WorkerClient) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
    taken: list[int | None] = []
    try:
        # Take the numbers that other tests have given back.
        with contextlib.suppress(OSError):
            taken.extend(iter(lambda: os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), None))
        with pytest.raises(WorkerShortageError, match="Too many open files"):
            await worker.request({})
    finally:
        for number in filter(None, taken):
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert "pid" in await worker.request({})
