"""Deliveries: real requests to receivers of this process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from testkit.jobs import make_job
from testkit.receiver import Received, receiving
from upscaled.jobs.job import Callback, Job, JobState
from upscaled.jobs.registry import JobRegistry
from upscaled.jobs.sqlite_store import SqliteJobStore
from upscaled.jobs.webhook_messages import Message, MessageState
from upscaled.outgoing.addresses import AddressRules
from upscaled.outgoing.client import OutgoingClient
from upscaled.outgoing.signatures import keys_of
from upscaled.webhooks.deliveries import Deliveries
from upscaled.webhooks.events import EVENTS, USUAL_EVENTS, messages_of
from upscaled.webhooks.receivers import MessageQueue, Receivers
from upscaled.webhooks.retry_schedule import RetrySchedule, retry_after

KEYS = keys_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")


class WatchedStore(SqliteJobStore):
    """Tells when what became of a message is recorded."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self.changed = asyncio.Condition()

    async def put(self, *args: Any, **named: Any) -> None:
        await super().put(*args, **named)
        await self._tell()

    async def settle(self, message: Message) -> None:
        await super().settle(message)
        await self._tell()

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()


class World:
    """A store, a registry and deliveries that can be restarted."""

    def __init__(self, folder: Path, pauses: Sequence[float], seconds: float) -> None:
        self._folder = folder
        self._pauses = pauses
        self._seconds = seconds

    async def start(self) -> None:
        self.store = WatchedStore(self._folder / "jobs.sqlite3")
        await self.store.open()
        self.registry = JobRegistry(self.store, messages_of)
        self.deliveries = Deliveries(
            self.store,
            OutgoingClient(AddressRules(["127.0.0.0/8"])),
            lambda _: KEYS,
            RetrySchedule(self._pauses),
            self._seconds,
        )
        self.registry.on_messages = self.deliveries.notice
        self._task = asyncio.create_task(self.deliveries.run(), name="webhooks")

    async def stop(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self.store.close()

    async def submit(self, url: str, events: Sequence[str] = EVENTS, owner: str = "") -> Job:
        callback = Callback(url, tuple(events), "https://up.example/api/v1")
        job = make_job(owner=owner, callback=callback, client_ref="größe")
        await self.registry.add(job)
        return job

    async def finish(self, job: Job, state: JobState = JobState.COMPLETED) -> None:
        self.registry.begin(job.id, started=time.time())
        await self.registry.advance(job.id, state, finished=time.time(), error="broke")

    async def until(self, job: Job, states: list[MessageState]) -> list[Message]:
        """Wait until the messages of a job are in ``states``."""
        return await self.until_messages(
            job, lambda messages: [message.state for message in messages] == states
        )

    async def until_messages(
        self, job: Job, condition: Callable[[list[Message]], bool]
    ) -> list[Message]:
        """Wait until the messages of a job are as ``condition`` wants them."""
        async with asyncio.timeout(60), self.store.changed:
            while not condition(messages := await self.store.messages_of(job.id)):
                await self.store.changed.wait()
        return messages


@contextlib.asynccontextmanager
async def running(
    folder: Path, pauses: Sequence[float] = (0.01,) * 20, seconds: float = 10
) -> AsyncIterator[World]:
    world = World(folder, pauses, seconds)
    await world.start()
    try:
        yield world
    finally:
        await world.stop()


DELIVERED, PENDING = MessageState.DELIVERED, MessageState.PENDING


async def test_a_receiver_is_told_each_event_it_wants_in_order(tmp_path: Path) -> None:
    async with running(tmp_path) as world, receiving() as receiver:
        job = await world.submit(receiver.url)
        await world.finish(job)
        messages = await world.until(job, [DELIVERED, DELIVERED])
        await world.registry.ended.mark_result_gone(await world.registry.get(job.id), "expired")
        await world.until(job, 3 * [DELIVERED])
        ends = await world.submit(receiver.url, USUAL_EVENTS)
        await world.finish(ends, JobState.CANCELLED)
        await world.until(ends, [DELIVERED])
    types = [request.json["type"] for request in receiver.requests]
    assert types == ["job.started", "job.completed", "job.expired", "job.cancelled"]
    started, completed, expired = (request.json["data"] for request in receiver.requests[:3])
    assert (started["status"], started["progress"]) == ("processing", 0)
    assert completed["download_url"] == f"https://up.example/api/v1/download/{job.id}"
    assert completed["status_url"] == f"https://up.example/api/v1/status/{job.id}"
    assert completed["client_ref"] == "größe"
    assert (expired["result_gone"], "download_url" in expired) == ("expired", False)
    assert receiver.requests[0].headers["Content-Type"] == "application/json"
    assert [message.attempts for message in messages] == [1, 1]
    assert [message.status for message in messages] == [204, 204]


async def test_a_downloaded_result_is_no_event(tmp_path: Path) -> None:
    async with running(tmp_path) as world, receiving() as receiver:
        job = await world.submit(receiver.url, ["expired", "failed"])
        await world.finish(job)
        await world.registry.ended.mark_result_gone(await world.registry.get(job.id), "downloaded")
        assert await world.store.messages_of(job.id) == []
        assert receiver.requests == []


async def test_a_start_that_was_never_recorded_is_told_before_the_end(tmp_path: Path) -> None:
    async with running(tmp_path) as world, receiving() as receiver:
        job = await world.submit(receiver.url)
        world.registry.begin(job.id, started=time.time())
        for recording in world.registry._recording:
            recording.cancel()
        await world.registry.advance(job.id, JobState.FAILED, finished=time.time(), error="broke")
        await world.until(job, [DELIVERED, DELIVERED])
    started, failed = (request.json for request in receiver.requests)
    assert (started["type"], started["data"]["status"]) == ("job.started", "processing")
    assert (failed["type"], failed["data"]["error"]) == ("job.failed", "broke")


async def test_a_job_that_starts_again_after_a_crash_is_told_once(tmp_path: Path) -> None:
    async with running(tmp_path) as world, receiving() as receiver:
        job = await world.submit(receiver.url)
        world.registry.begin(job.id, started=time.time())
        await world.until(job, [DELIVERED])
        await world.registry.advance(job.id, JobState.QUEUED, started=None)
        await world.finish(job)
        await world.until(job, [DELIVERED, DELIVERED])
    assert [r.json["type"] for r in receiver.requests] == ["job.started", "job.completed"]


async def test_a_message_is_repeated_until_it_is_taken_and_later_ones_wait(tmp_path: Path) -> None:
    answers = iter([500, 302, 404, 204, 503, 204])

    def answer(_: Received) -> web.Response:
        return web.Response(status=next(answers))

    async with running(tmp_path) as world, receiving(answer) as receiver:
        job = await world.submit(receiver.url)
        await world.finish(job)
        messages = await world.until(job, [DELIVERED, DELIVERED])
    assert [r.json["type"] for r in receiver.requests] == 4 * ["job.started"] + 2 * [
        "job.completed"
    ]
    assert [message.attempts for message in messages] == [4, 2]
    assert [message.error for message in messages] == [None, None]
    assert len({request.id for request in receiver.requests}) == 2, "an id names a message"
    stamps = [int(request.headers["webhook-timestamp"]) for request in receiver.requests]
    assert stamps == sorted(stamps)


async def test_a_message_is_given_up_after_its_last_attempt_and_the_next_one_is_sent(
    tmp_path: Path,
) -> None:
    def answer(request: Received) -> web.Response:
        return web.Response(status=500 if request.json["type"] == "job.started" else 200)

    async with running(tmp_path, [0.01, 0.01]) as world, receiving(answer) as receiver:
        job = await world.submit(receiver.url)
        await world.finish(job)
        messages = await world.until(job, [MessageState.GIVEN_UP, DELIVERED])
    assert messages[0].attempts == 3
    assert (messages[0].status, messages[0].error) == (500, "It answered 500.")


async def test_410_ends_all_messages_of_the_job_also_later_ones(tmp_path: Path) -> None:
    async with (
        running(tmp_path) as world,
        receiving(lambda _: web.Response(status=410)) as receiver,
    ):
        job = await world.submit(receiver.url)
        world.registry.begin(job.id, started=time.time())
        await world.until(job, [MessageState.GONE])
        await world.registry.advance(job.id, JobState.COMPLETED, finished=time.time())
        await world.until(job, 2 * [MessageState.GONE])
        assert len(receiver.requests) == 1


async def test_retry_after_is_respected(tmp_path: Path) -> None:
    def answer(_: Received) -> web.Response:
        return web.Response(status=503, headers={"Retry-After": "1000"})

    async with running(tmp_path) as world, receiving(answer) as receiver:
        job = await world.submit(receiver.url, ["failed"])
        await world.finish(job, JobState.FAILED)
        message = (await world.until_messages(job, lambda m: m[0].attempts == 1))[0]
    assert message.due - time.time() == pytest.approx(1000, abs=60)


def test_pauses_grow_vary_and_end() -> None:
    retries = RetrySchedule([5, 30, 120])
    assert {round(retries.pause(1) or 0, 3) for _ in range(20)} != {5}
    for attempts, pause in ((1, 5), (2, 30), (3, 120)):
        assert 0.8 * pause <= (retries.pause(attempts) or 0) <= 1.2 * pause
        assert retries.pause(attempts, asked=3600) == 3600
        assert retries.pause(attempts, asked=1e9) == 86_400, "a day at the most"
    assert retries.pause(4) is None


def test_what_a_retry_after_says() -> None:
    assert retry_after("120") == 120
    in_an_hour = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 3600))
    assert retry_after(in_an_hour) == pytest.approx(3600, abs=5)
    for text in (None, "", "soon", "-5", "1e9", "Wed, 99 Foo 2026 00:00:00 GMT"):
        assert retry_after(text) == 0


async def test_messages_outlive_a_restart(tmp_path: Path) -> None:
    async with receiving(lambda _: web.Response(status=500)) as receiver:
        async with running(tmp_path) as world:
            job = await world.submit(receiver.url)
            await world.finish(job)
            await receiver.until(lambda: len(receiver.requests) >= 2)
        receiver.answer = lambda _: web.Response()
        async with running(tmp_path) as world:
            await world.until(job, [DELIVERED, DELIVERED])
    assert [r.json["type"] for r in receiver.taken] == ["job.started", "job.completed"]


async def test_a_dead_receiver_delays_nobody(tmp_path: Path) -> None:
    """One takes connections and never answers, one port is closed; a third is told at once."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as silent, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        async with running(tmp_path, [600], seconds=30) as world, receiving() as receiver:
            for dead in (silent, closed):
                for number in range(30):
                    url = f"http://127.0.0.1:{dead.getsockname()[1]}/{number}"
                    await world.finish(await world.submit(url, USUAL_EVENTS))
            for _ in range(20):
                job = await world.submit(receiver.url, USUAL_EVENTS)
                await world.finish(job)
                await world.until(job, [DELIVERED])
            assert len(receiver.taken) == 20


async def test_a_receiver_gets_few_messages_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as world, receiving() as receiver:
        receiver.hold = asyncio.Event()
        jobs = [await world.submit(receiver.url, USUAL_EVENTS) for _ in range(12)]
        for job in jobs:
            await world.finish(job)
        await receiver.until(lambda: receiver.busy == 4)
        receiver.hold.set()
        for job in jobs:
            await world.until(job, [DELIVERED])
        assert receiver.most_busy == 4


def test_owners_and_receivers_take_turns() -> None:
    receivers, now = Receivers(), 0.0
    for owner in ("ann", "bob"):
        for number in range(30):
            queue = MessageQueue(f"{owner}{number}", owner, f"http://{owner}-{number % 10}.example")
            receivers.add(queue)
            receivers.wait(queue)
    first = list(receivers.ready(now))
    assert {owner: sum(queue.owner == owner for queue in first) for owner in ("ann", "bob")} == {
        "ann": 16,
        "bob": 16,
    }
    # None of them answers. Half of an owner's places stay free for others of its receivers.
    for queue in first:
        receivers.done(queue, True, now)
    receivers_asked = list(receivers.ready(now))
    assert receivers_asked == [], "they rest"
    assert len(list(receivers.ready(now + 100))) == 16
    fresh = [
        MessageQueue(f"fresh{number}", "ann", f"http://fresh-{number}.example")
        for number in range(9)
    ]
    for queue in fresh:
        receivers.add(queue)
        receivers.wait(queue)
    assert list(receivers.ready(now + 100)) == fresh[:8]


async def test_a_deleted_job_is_told_no_more(tmp_path: Path) -> None:
    async with (
        running(tmp_path) as world,
        receiving(lambda _: web.Response(status=500)) as receiver,
    ):
        job = await world.submit(receiver.url, USUAL_EVENTS)
        await world.finish(job)
        await receiver.until(lambda: bool(receiver.requests))
        await world.registry.ended.forget(job)
        other = await world.submit(receiver.url, USUAL_EVENTS)
        receiver.answer = lambda _: web.Response()
        await world.finish(other)
        await world.until(other, [DELIVERED])
        assert await world.store.messages_of(job.id) == []
    assert [request.json["data"]["job_id"] for request in receiver.taken][-1] == other.id


async def test_a_receiver_on_a_private_address_is_not_reached(tmp_path: Path) -> None:
    async with running(tmp_path, [0.01]) as world, receiving() as receiver:
        # The settings were changed after the job was accepted.
        world.deliveries._client = OutgoingClient(AddressRules())
        job = await world.submit(receiver.url, USUAL_EVENTS)
        await world.finish(job)
        messages = await world.until(job, [MessageState.GIVEN_UP])
    assert receiver.requests == []
    assert "public address" in (messages[0].error or "")


async def test_a_redirect_keeps_the_message_or_fails(tmp_path: Path) -> None:
    def answer(request: Received) -> web.Response:
        if request.path == "/hook":
            return web.Response(status=307, headers={"Location": "/moved"})
        return web.Response(status=200)

    async with running(tmp_path) as world, receiving(answer) as receiver:
        job = await world.submit(receiver.url, USUAL_EVENTS)
        await world.finish(job)
        await world.until(job, [DELIVERED])
    first, second = receiver.requests
    assert (second.path, second.body, second.id) == ("/moved", first.body, first.id)


async def test_messages_of_a_full_disk_are_sent_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upscaled.webhooks.deliveries._STORE_SECONDS", 0.01)
    async with running(tmp_path) as world, receiving() as receiver:
        settle, failures = world.store.settle, iter([True, True, False])

        async def failing(message: Message) -> None:
            if next(failures):
                raise OSError(28, "No space left on device")
            await settle(message)

        monkeypatch.setattr(world.store, "settle", failing)
        job = await world.submit(receiver.url, USUAL_EVENTS)
        await world.finish(job)
        await world.until(job, [DELIVERED])
    assert len({request.id for request in receiver.requests}) == 1
    assert len(receiver.requests) == 3, "at least once"


async def test_a_message_too_old_is_given_up_unsent(tmp_path: Path) -> None:
    async with receiving(lambda _: web.Response(status=500)) as receiver:
        async with running(tmp_path, [0.01, 600]) as world:
            job = await world.submit(receiver.url, USUAL_EVENTS)
            await world.finish(job)
            message = (await world.until_messages(job, lambda m: m[0].attempts == 2))[0]
            await world.store.settle(replace(message, due=1.0))
            await world.store._do(lambda c: c.execute("UPDATE messages SET created = 1.0").close())
        async with running(tmp_path, [0.01, 600]) as world:
            await world.until(job, [MessageState.GIVEN_UP])
    assert len(receiver.requests) == 2
