"""``GET /events/{job_id}`` and ``GET /events``: every change of a job, as it happens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from testkit import contract
from testkit.contract import Answer
from testkit.jobs import make_job
from testkit.running import Api, Server, a_picture
from testkit.waiting import tasks_named, until_in
from upscaled.api import events
from upscaled.api.event_streams import EventStreams
from upscaled.api.status_json import StatusRenderer
from upscaled.callers import hash_of
from upscaled.config.settings import StorageSettings
from upscaled.jobs.job import Attempt, JobState
from upscaled.jobs.updates import JobUpdate
from upscaled.timing.forecast import Outlook

SLOW = {"model_name": "realesrgan-x4plus", "scale": "4"}
MINE, YOURS = "my secret", "your secret"


@dataclass(frozen=True)
class Event:
    id: int
    data: dict[str, Any]


class Stream:
    """A listener that reads server-sent events, comments apart."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.comments = 0

    async def next(self) -> Event | None:
        """Return the next event, None at the stream's end."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(60):
            async for line in self.response.content:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name == ":":
                    self.comments += 1
                elif name:
                    fields[name] = value
                elif "data" in fields:
                    data = json.loads(fields["data"])
                    schema = {"update": "JobUpdate", "deleted": "DeletedJob"}[fields["event"]]
                    contract.validate(data, f"/components/schemas/{schema}")
                    compact = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
                    assert compact == fields["data"]
                    return Event(int(fields["id"]), data)
        return None

    async def rest(self) -> list[Event]:
        """Return all events up to the stream's end."""
        found = []
        while (event := await self.next()) is not None:
            found.append(event)
        return found

    async def until(self, wanted: Callable[[Event], bool]) -> Event:
        """Return the next event that is ``wanted``."""
        while True:
            event = await self.next()
            assert event is not None, "the stream ended early"
            if wanted(event):
                return event


@contextlib.asynccontextmanager
async def listening(
    server: Server, path: str, last: int | None = None, token: str | None = None
) -> AsyncIterator[Stream]:
    """Open a stream; its head is held against the contract."""
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    async with (
        aiohttp.ClientSession() as session,
        session.get(server.url + path, headers=headers) as response,
    ):
        assert response.status == 200, await response.text()
        head = {name.lower(): value for name, value in response.headers.items()}
        contract.check("GET", path.partition("?")[0], Answer(200, head, b""))
        assert head["cache-control"] == "no-store"
        yield Stream(response)


def ended(event: Event) -> bool:
    return event.data.get("status") in {"completed", "failed", "cancelled"}


async def streams_there_are(server: Server, count: int) -> None:
    """Wait until ``count`` streams are open in the server."""
    await until_in(server, lambda: len(tasks_named("events-")) == count)


async def test_a_job_is_told_from_the_queue_to_its_end(api: Api) -> None:
    job_id = await api.accepted(a_picture(200, 160))
    async with listening(api.server, f"/events/{job_id}") as stream:
        told = await stream.rest()
    assert told[-1].data == (await api.get(f"/status/{job_id}")).json
    assert told[-1].data["status"] == "completed"
    assert [ended(event) for event in told] == [False] * (len(told) - 1) + [True]
    ids = [event.id for event in told]
    assert ids == sorted(set(ids))
    progress = [event.data["progress"] for event in told]
    assert progress == sorted(progress)
    working = [event.data for event in told if event.data["status"] == "processing"]
    assert all(data["attempt"] == 1 for data in working)
    assert {data.get("stage") for data in working} <= {"preparing", "upscaling", "finishing", None}


async def test_who_comes_back_is_told_what_is_new_and_nothing_twice(api: Api) -> None:
    job_id = await api.accepted(a_picture(300, 300), **SLOW)
    path = f"/events/{job_id}"
    async with listening(api.server, path) as stream:
        first = await stream.until(lambda event: event.data["status"] == "processing")
    async with listening(api.server, path, last=first.id) as stream:
        assert (await api.post(f"/cancel/{job_id}")).status == 200
        told = await stream.rest()
    assert all(event.id > first.id for event in told)
    assert told[-1].data["status"] == "cancelled"
    again = await api.get(path, headers={"Last-Event-ID": str(told[-1].id)})
    assert (again.status, again.body) == (204, b"")
    for last in (first.id, None):  # the end is not lost for who does not have it
        async with listening(api.server, path, last=last) as stream:
            (end,) = await stream.rest()
        assert end.data == told[-1].data
        assert end.id >= told[-1].id


async def test_an_end_that_was_told_is_known_after_a_restart(
    serve: Callable[..., Server],
) -> None:
    server = serve()
    async with Api(server) as api:
        job_id = await api.completed()
    async with listening(server, f"/events/{job_id}") as stream:
        (end,) = await stream.rest()
    await asyncio.to_thread(server.stop_serving)
    again = Server(server.config)
    await asyncio.to_thread(again.start)
    try:
        async with Api(again) as api:
            path = f"/events/{job_id}"
            answer = await api.get(path, headers={"Last-Event-ID": str(end.id)})
            assert answer.status == 204
        async with listening(again, path, last=end.id - 3) as stream:
            (told,) = await stream.rest()
        assert (told.id > end.id, told.data) == (True, end.data)
    finally:
        await asyncio.to_thread(again.stop)


async def test_all_own_jobs_are_told_and_ends_that_were_missed(
    serve: Callable[..., Server],
) -> None:
    server = serve(server__tokens=f"mine={hash_of(MINE)},yours={hash_of(YOURS)}")
    async with Api(server, MINE) as mine, Api(server, YOURS) as yours:
        async with listening(server, "/events", token=MINE) as stream:
            others = await yours.completed()
            first = await mine.completed()
            end = await stream.until(ended)
            assert (end.data["job_id"], end.data["status"]) == (first, "completed")
        missed = [await mine.completed() for _ in range(2)]
        running = await mine.accepted(a_picture(300, 300), **SLOW)
        async with listening(server, "/events", last=end.id, token=MINE) as stream:
            told: list[Event] = []
            while not told or told[-1].data["job_id"] != running:
                event = await stream.next()
                assert event is not None
                if server.config.cluster.used and event.id <= end.id:
                    continue  # of the last seconds, its servers tell some again
                told.append(event)
            assert [event.data["job_id"] for event in told] == [*missed, running]
            assert all(event.id > end.id for event in told)
            await mine.get(f"/download/{missed[0]}")
            gone = await stream.until(lambda event: "result_gone" in event.data)
            assert (gone.data["job_id"], gone.data["result_gone"]) == (missed[0], "downloaded")
        for job_id in (others, "1" * 19):
            assert (await mine.get(f"/events/{job_id}")).status == 404
        await mine.post(f"/cancel/{running}")
    async with Api(server) as nobody:
        assert (await nobody.get("/events")).status == 401


async def test_deletions_are_told_to_their_owner_who_asks_for_them(
    serve: Callable[..., Server],
) -> None:
    server = serve(server__tokens=f"mine={hash_of(MINE)},yours={hash_of(YOURS)}")
    async with Api(server, MINE) as mine, Api(server, YOURS) as yours:
        theirs, first, second = (
            await yours.completed(),
            await mine.completed(),
            await mine.completed(),
        )
        async with (
            listening(server, "/events?deletions=true", token=MINE) as asking,
            listening(server, "/events", token=MINE) as other,
        ):
            await yours.call("DELETE", f"/jobs/{theirs}")
            async with asyncio.timeout(5):
                await mine.call("DELETE", f"/jobs/{first}")
                told = await asking.until(lambda event: "status" not in event.data)
            assert told.data == {"job_id": first}
            last = await mine.completed()
            assert (await asking.until(ended)).data["job_id"] == last
            assert (await other.until(ended)).data["job_id"] == last
        await mine.call("DELETE", f"/jobs/{second}")
        path = "/events?deletions=true"
        async with listening(server, path, last=told.id, token=MINE) as asking:
            missed = await asking.until(lambda event: event.data == {"job_id": second})
            assert missed.id > told.id
        refused = await mine.get("/events?deletions=perhaps")
        assert refused.status == 400
        assert "deletions is 'perhaps'" in refused.json["error"]


async def test_lists_of_jobs_can_be_switched_off(serve: Callable[..., Server]) -> None:
    server = serve(features__job_lists="false")
    async with Api(server) as api:
        job_id = await api.completed()
        assert (await api.get("/events")).status == 404
    async with listening(server, f"/events/{job_id}") as stream:
        assert len(await stream.rest()) == 1


async def test_a_silent_stream_has_heartbeats(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_SECONDS", 0.05)
    server = serve()
    async with Api(server) as api, listening(server, "/events") as stream:
        async with asyncio.timeout(30):
            while stream.comments < 3:
                line = await stream.response.content.readline()
                stream.comments += line == b":\n"
        job_id = await api.accepted()
        assert (await stream.next() or pytest.fail()).data["job_id"] == job_id


async def test_listeners_who_go_leave_nothing_and_a_stop_ends_streams(
    serve: Callable[..., Server],
) -> None:
    server = serve()
    async with listening(server, "/events"):
        await streams_there_are(server, 1)
    await streams_there_are(server, 0)
    async with listening(server, "/events") as stream:
        await asyncio.to_thread(server.stop_serving)
        assert await stream.rest() == []


async def test_streams_leave_connections_to_other_requests(serve: Callable[..., Server]) -> None:
    server = serve(server__max_connections="4")
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(listening(server, "/events"))
        async with Api(server) as api:
            refused = await api.get("/events")
            assert (refused.status, refused.json["code"]) == (503, "too_many_connections")
            assert (await api.get("/models")).status == 200


async def test_a_listener_who_never_reads_is_cut_off(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_SECONDS", 0.0001)
    server = serve(server__send_timeout_seconds="1")
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(listener, ("127.0.0.1", server.port))
        await loop.sock_sendall(listener, b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        await streams_there_are(server, 1)
        await streams_there_are(server, 0)  # while the listener is still connected


async def test_a_listener_who_reads_nothing_of_a_job_holds_up_nobody(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_SECONDS", 0.0001)
    server = serve(server__send_timeout_seconds="1")
    async with Api(server) as api:
        job_id = await api.accepted(a_picture(300, 300), **SLOW)
        path = f"/api/v1/events/{job_id}"
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            deaf.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(deaf, ("127.0.0.1", server.port))
            await loop.sock_sendall(deaf, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await streams_there_are(server, 1)
            async with listening(server, f"/events/{job_id}") as stream:
                await streams_there_are(server, 2)
                await streams_there_are(server, 1)  # the deaf one is cut off
                assert (await api.post(f"/cancel/{job_id}")).status == 200
                assert (await stream.rest())[-1].data["status"] == "cancelled"
    await streams_there_are(server, 0)
    await until_in(server, lambda: not tasks_named("broadcast-"))


async def test_an_old_client_gets_events_without_chunks(api: Api) -> None:
    job_id = await api.accepted(a_picture(300, 300), **SLOW)
    reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
    writer.write(f"GET /api/v1/events/{job_id} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode())
    await reader.readuntil(b"data: ")
    assert (await api.post(f"/cancel/{job_id}")).status == 200
    rest = await reader.read(-1)
    writer.close()
    lines = (b"data: " + rest).splitlines()
    assert {line.partition(b":")[0] for line in lines if line} <= {b"id", b"event", b"data", b""}
    told = [json.loads(line[6:]) for line in lines if line.startswith(b"data: ")]
    assert told[-1]["status"] == "cancelled"


async def test_many_listeners_hear_of_the_end(serve: Callable[..., Server]) -> None:
    server = serve(server__max_connections="400")
    async with Api(server) as api, contextlib.AsyncExitStack() as stack:
        job_id = await api.accepted(a_picture(200, 160))
        streams = [
            await stack.enter_async_context(listening(server, f"/events/{job_id}"))
            for _ in range(200)
        ]
        told = await asyncio.gather(*(stream.rest() for stream in streams))
        assert {events[-1].data["status"] for events in told} == {"completed"}


def test_many_streams_get_events_more_rarely_so_that_they_slow_no_job_down() -> None:
    streams = EventStreams(4000, 60)
    with contextlib.ExitStack() as opened:
        opened.enter_context(streams.opened())
        assert streams.pause == 0.25
        for _ in range(999):
            opened.enter_context(streams.opened())
        assert streams.pause == pytest.approx(1.0)
    assert streams.pause == 0.25


@pytest.mark.parametrize(
    ("outcomes", "attempt"), [((), 1), (("no",), 2), (("no", "ok"), 2), (("ok",), 1)]
)
def test_an_attempt_that_went_well_is_still_the_one_that_is_told(
    outcomes: tuple[str, ...], attempt: int
) -> None:
    attempts = tuple(Attempt("builtin", "cpu", 0, outcome) for outcome in outcomes)
    job = make_job(state=JobState.PROCESSING, attempts=attempts)
    renderer = StatusRenderer(lambda _: None, StorageSettings())
    told = events.event_of(JobUpdate(1, job), renderer, "/api/v1")
    assert b'"attempt":%d' % attempt in told


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.PROCESSING])
def test_only_a_queued_job_has_a_position(state: JobState) -> None:
    renderer = StatusRenderer(lambda _: Outlook(3, 7.0), StorageSettings())
    told = json.loads(renderer.render(make_job(state=state), "/api/v1"))
    assert told["eta_seconds"] == 7.0
    assert told.get("queue_position") == (3 if state is JobState.QUEUED else None)
