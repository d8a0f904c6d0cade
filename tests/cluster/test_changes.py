"""What members are told of changes: enough to read nothing, and nothing that is not for them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from dataclasses import replace

import psycopg
import pytest

from testkit.jobs import make_job
from testkit.postgres import PostgresServer
from testkit.waiting import until
from upscaled.cluster import work_queue
from upscaled.cluster.changes import JOBS, LOST, WAITING, Changes, told_version
from upscaled.cluster.hearing import Hearing
from upscaled.cluster.records import SharedJobStore
from upscaled.cluster.registry import SharedRegistry
from upscaled.jobs.job import Job, JobState
from upscaled.jobs.postgres_database import Connection, Database
from upscaled.jobs.postgres_store import JobVersion, update_job
from upscaled.service.background import end_task

MODEL = make_job().request.model_name


class CountingStore(SharedJobStore):
    """Counts the reads of single jobs."""

    reads = 0

    async def versions(self, job_ids: Collection[str]) -> dict[str, JobVersion]:
        self.reads += 1
        return await super().versions(job_ids)


@pytest.fixture
async def database(postgres: PostgresServer) -> AsyncIterator[Database]:
    async with postgres.opened_database() as database:
        yield database


@contextlib.asynccontextmanager
async def registry_of_a_server(
    database: Database,
) -> AsyncIterator[tuple[SharedRegistry, CountingStore]]:
    """A registry that hears of changes, as that of an API server does."""
    store = CountingStore(database, lambda _: (), fair=True)
    registry = SharedRegistry(store)
    connected = asyncio.Event()

    async def catch_up(connection: Connection) -> None:
        await registry.catch_up(connection)
        connected.set()

    changes = Changes(database.url, {JOBS: registry.heard}, connected=catch_up)
    tasks = [
        asyncio.create_task(changes.run(), name="changes"),
        asyncio.create_task(registry.follow(), name="followed jobs"),
    ]
    try:
        async with asyncio.timeout(30):
            await connected.wait()
        yield registry, store
    finally:
        for task in tasks:
            await end_task(task)


async def ended_as(registry: SharedRegistry, job_id: str) -> list[Job]:
    """Return what a listener is told of a job, to its end."""
    seen: list[Job] = []
    async with asyncio.timeout(30), registry.subscribe_all() as updates:
        async for update in updates:
            if update.job.id == job_id:
                seen.append(update.job)
                if update.ended:
                    break
    return seen


async def recorded(database: Database, job: Job) -> None:
    await database.run(lambda connection: update_job(connection, job))


async def test_a_server_shows_what_others_record_without_reading_it(database: Database) -> None:
    other = SharedJobStore(database, lambda _: (), fair=True)
    async with registry_of_a_server(database) as (registry, store):
        tags: list[float] = []
        registry.watchers.append(lambda _, tag: tags.append(tag))
        job = make_job(client="somebody", client_ref="ein Bild, größer als das andere")
        listening = asyncio.create_task(ended_as(registry, job.id), name="listener")
        await other.put(job)
        await other.put(make_job(client="somebody"))  # its tag is not 0
        await other.put(replace(job, state=JobState.CANCELLED))
        told = await listening
        assert [one.state for one in told] == [JobState.QUEUED, JobState.CANCELLED]
        assert told[-1].client_ref == job.client_ref
        assert max(tags) > 0
        assert store.reads == 0


async def test_a_record_too_long_for_a_notification_is_read(database: Database) -> None:
    other = SharedJobStore(database, lambda _: (), fair=True)
    async with registry_of_a_server(database) as (registry, store):
        job = make_job()
        listening = asyncio.create_task(ended_as(registry, job.id), name="listener")
        await other.put(job)
        failed = replace(job, state=JobState.FAILED, error="ö" * 5000)
        await recorded(database, failed)
        assert (await listening)[-1] == failed
        assert store.reads == 1


async def test_a_deleted_record_is_forgotten_without_a_read(database: Database) -> None:
    other = SharedJobStore(database, lambda _: (), fair=True)
    async with registry_of_a_server(database) as (registry, store):
        job = make_job()
        gone = asyncio.Event()
        registry.watchers.append(lambda one, _: gone.set() if one.state not in _ACTIVE else None)
        await other.put(job)
        await other.delete(job.id)
        async with asyncio.timeout(30):
            await gone.wait()
        assert registry.peek(job.id) is None
        assert store.reads == 0


_ACTIVE = {JobState.QUEUED, JobState.PROCESSING}


async def test_news_that_is_older_than_what_was_read_changes_nothing(database: Database) -> None:
    store = CountingStore(database, lambda _: (), fair=True)
    registry = SharedRegistry(store)
    job = make_job()
    with psycopg.connect(database.url, autocommit=True) as listener:
        listener.execute(f"LISTEN {JOBS}")
        await store.put(job)
        running = replace(job, state=JobState.PROCESSING)
        await recorded(database, running)
        first, second = (one.payload for one in listener.notifies(timeout=30, stop_after=2))
    assert (await registry.get(job.id)).state is JobState.PROCESSING
    following = asyncio.create_task(registry.follow(), name="followed jobs")
    try:
        registry.heard(first)
        later = make_job()
        learnt = asyncio.Event()
        registry.watchers.append(lambda _, __: learnt.set())
        await store.put(later)
        version = (await store.versions([later.id]))[later.id]
        registry.heard(second.replace(job.id, later.id))  # a sign that the first was handled
        async with asyncio.timeout(30):
            await learnt.wait()
        shown = registry.peek(job.id)
        assert shown is not None
        assert shown.state is JobState.PROCESSING
        assert version.revision > told_version(first)[1].revision  # type: ignore[union-attr]
    finally:
        await end_task(following)


@pytest.mark.parametrize("payload", ["123", "123 deleted", '123 7 1.5 {"later": true}'])
def test_news_of_a_later_version_is_refused_and_that_without_a_record_is_not(payload: str) -> None:
    if payload.startswith("123 7"):
        with pytest.raises(ValueError, match="missing"):
            told_version(payload)
    else:
        assert told_version(payload) == ("123", None, payload.endswith("deleted"))


async def test_workers_hear_only_of_work_that_waits_and_of_jobs_that_are_taken_away(
    database: Database,
) -> None:
    store = SharedJobStore(database, lambda _: (), fair=True)
    job = make_job()
    with psycopg.connect(database.url, autocommit=True) as listener:
        for channel in (WAITING, LOST):
            listener.execute(f"LISTEN {channel}".encode())

        def heard() -> list[tuple[str, str]]:
            listener.execute("SELECT 1")  # notifications come with an answer
            return [(one.channel, one.payload) for one in listener.notifies(timeout=0)]

        await store.put(job)
        assert heard() == [(WAITING, MODEL)]
        worker = await database.run(work_queue.register)
        lease = await database.run(lambda c: work_queue.take(c, worker, [MODEL]))
        assert lease is not None
        await recorded(database, replace(lease.job, state=JobState.PROCESSING))
        assert heard() == []  # servers are told, workers are not

        entry = lease.queue_entry

        async def give_back(connection: Connection) -> None:
            await connection.execute(
                "UPDATE jobs SET attempt = attempt + 1, worker = NULL WHERE id = %s", (job.id,)
            )
            await work_queue.give_back(connection, entry)

        await database.run(give_back)
        assert sorted(heard()) == [(LOST, job.id), (WAITING, MODEL)]
        lease = await database.run(lambda c: work_queue.take(c, worker, [MODEL]))
        assert lease is not None
        await store.put(replace(lease.job, state=JobState.CANCELLED))
        assert heard() == [(LOST, job.id)]
        await recorded(database, replace(lease.job, state=JobState.CANCELLED, result_gone="lost"))
        await store.delete(job.id)
        assert heard() == []


async def test_workers_of_a_large_cluster_ask_and_do_not_listen(database: Database) -> None:
    store = SharedJobStore(database, lambda _: (), fair=True)
    workers = 3
    heard: list[str | None] = []
    hearing = Hearing(database.url, lambda: workers, work=heard.append, loss=lambda _: None)
    task = asyncio.create_task(hearing.run(), name="hearing")

    async def listening() -> int:
        async def read(connection: Connection) -> int:
            found = await connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                "AND query LIKE 'LISTEN %'"
            )
            return int((await found.fetchone() or (0,))[0])

        return await database.run(read)

    try:
        await until(lambda: heard)  # it listens
        assert await listening() == 1
        await store.put(make_job())
        await until(lambda: MODEL in heard)
        workers = 300
        heard.clear()
        await until(lambda: len(heard) > 1)
        assert set(heard) == {None}
        assert await listening() == 0
        workers = 3
        heard.clear()
        await until(lambda: heard)
        async with asyncio.timeout(30):
            while await listening() != 1:
                pass
        await store.put(make_job())
        await until(lambda: MODEL in heard)
    finally:
        await end_task(task)
