from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from testkit.cuttable_link import CuttableLink
from testkit.jobs import make_job
from testkit.postgres import PostgresServer
from testkit.store_contract import JobStoreContract, make_key
from upscaled.errors import ConfigError, StoreUnavailableError
from upscaled.jobs import postgres_schema
from upscaled.jobs.job import ACTIVE
from upscaled.jobs.postgres_database import Connection, Database
from upscaled.jobs.postgres_schema import Migration
from upscaled.jobs.postgres_store import PostgresJobStore
from upscaled.jobs.store import JobFilter


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    with postgres.database() as url:
        yield url


@pytest.fixture
async def store(url: str) -> AsyncIterator[PostgresJobStore]:
    store = PostgresJobStore(Database(url))
    await store.open()
    yield store
    await store.close()


class TestPostgresJobStore(JobStoreContract):
    @pytest.fixture(autouse=True)
    def database(self, url: str) -> None:
        self._url = url

    def make_store(self) -> PostgresJobStore:
        return PostgresJobStore(Database(self._url))


async def test_programs_that_start_together_migrate_once(url: str) -> None:
    stores = [PostgresJobStore(Database(url)) for _ in range(4)]
    await asyncio.gather(*(store.open() for store in stores))
    await stores[0].put(make_job())
    assert len(await stores[3].in_states(ACTIVE)) == 1
    for store in stores:
        await store.close()


async def test_the_next_version_may_add_to_the_schema_but_not_remove_from_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = postgres_schema.MIGRATIONS
    expanding = Migration("ALTER TABLE jobs ADD COLUMN more TEXT", readable_from=len(ours))
    contracting = Migration("ALTER TABLE jobs DROP COLUMN more", readable_from=len(ours) + 1)
    for migrations, usable in (((*ours, expanding), True),
                               ((*ours, expanding, contracting), False)):  # fmt: skip
        monkeypatch.setattr(postgres_schema, "MIGRATIONS", migrations)
        later = PostgresJobStore(Database(url))
        await later.open()
        await later.close()
        monkeypatch.setattr(postgres_schema, "MIGRATIONS", ours)
        store = PostgresJobStore(Database(url))
        if usable:
            await store.open()
            await store.put(make_job())
            await store.close()
        else:
            with pytest.raises(
                ConfigError,
                match=rf"version {len(ours) + 2} of the schema, .* this one knows {len(ours)} and",
            ):
                await store.open()


async def test_what_no_record_can_have_is_not_found(store: PostgresJobStore) -> None:
    for strange in ("nul\0", "half \ud800"):
        assert await store.page(JobFilter("", client_ref=strange), None, 10) == []
    job = make_job(client_ref="half \ud800")
    await store.put(job)
    assert await store.get(job.id) == job


async def test_a_database_that_does_not_answer_is_told_so() -> None:
    store = PostgresJobStore(Database("postgresql://127.0.0.1:1/none", patience=0.1))
    with pytest.raises(StoreUnavailableError, match="does not answer now") as told:
        await store.open()
    assert told.value.headers["Retry-After"]


@pytest.mark.parametrize("url", ["nonsense://x", "host=127.0.0.1 colour=red"])
async def test_a_url_that_can_t_be_read_is_a_wrong_setting(url: str) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.database_url"):
        await Database(url, patience=0.1).open()


async def test_a_database_that_is_not_there_is_a_wrong_setting(postgres: PostgresServer) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        await Database(postgres.url("nowhere"), patience=0.1).open()


async def test_writes_wait_for_a_database_that_is_killed_and_restarted() -> None:
    server = PostgresServer()
    try:
        server.start()
        store = PostgresJobStore(Database(server.url()))
        await store.open()
        early, late = make_job(), make_job(owner="ann")
        await store.put(early)
        server.kill()
        waiting = asyncio.create_task(store.put(late, make_key(late)))
        await asyncio.wait([waiting], timeout=0.2)
        assert not waiting.done()
        await asyncio.to_thread(server.start)
        await waiting
        assert await store.get(early.id) == early, "what was recorded outlives the kill"
        assert await store.get(late.id) == late
        assert await store.key("ann", "key") == make_key(late)
        await store.close()
    finally:
        server.close()


async def test_a_write_whose_end_was_not_seen_can_be_repeated(store: PostgresJobStore) -> None:
    job = make_job(owner="ann")
    await store.put(job, make_key(job))
    await store.put(job, make_key(job))
    assert await store.key("ann", "key") == make_key(job)


async def test_a_server_that_falls_silent_is_given_up_and_used_again_later(
    postgres: PostgresServer, url: str
) -> None:
    link = CuttableLink(postgres.port)
    await link.start()
    database = Database(url.replace(f":{postgres.port}/", f":{link.port}/"), patience=0.2)
    await database.open()

    async def one(connection: Connection) -> object:
        return await (await connection.execute("SELECT 1")).fetchone()

    try:
        assert await database.run(one) == (1,)
        link.cut()  # connections stay open, and no answer comes
        with pytest.raises(StoreUnavailableError, match="does not answer now; try again in 5 s"):
            async with asyncio.timeout(30):
                await database.run(one, seconds=0.5)
        link.heal()
        assert await database.run(one, patience=30) == (1,)
    finally:
        link.heal()
        await database.close()
        await link.close()


async def test_a_timeout_of_the_work_itself_is_passed_on(url: str) -> None:
    database = Database(url)
    await database.open()

    async def late(_: Connection) -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await database.run(late)
    await database.close()
