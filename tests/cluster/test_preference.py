"""Workers prefer jobs whose network they have loaded, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testkit.cluster import Cluster, running_cluster, submitted, until_state
from testkit.jobs import make_job
from testkit.photos import resized
from testkit.postgres import PostgresServer
from testkit.services import FAST
from testkit.simulated_parts import StartTags, TagQueue
from upscaled.cluster import work_queue
from upscaled.cluster.members import WORKER, Member, Seen
from upscaled.cluster.membership import Membership
from upscaled.cluster.preference import Preference
from upscaled.cluster.rescue import Rescuer
from upscaled.jobs.job import Job
from upscaled.jobs.order import STRETCH, LoadedModels
from upscaled.jobs.postgres_database import Connection, Database
from upscaled.jobs.postgres_store import insert_job

LOADS = {"quick": 0.05, "slow": 3.0}
MODELS = {name: {name: seconds} for name, seconds in LOADS.items()}


@pytest.fixture
async def database(postgres: PostgresServer) -> AsyncIterator[Database]:
    async with postgres.opened_database() as database:
        yield database


async def submit(connection: Connection, job: Job, cost: float = 1.0) -> None:
    tag = await work_queue.start_tag(connection, job.client, cost)
    entry = await work_queue.add(connection, job, tag)
    await insert_job(connection, job, queue_entry=entry, cost=cost, tag=tag)


def job_of(model: str, client: str) -> Job:
    return make_job(request=replace(make_job().request, model_name=model), client=client)


# --- the rule -------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    costs=st.lists(st.floats(0.05, 40.0), min_size=1, max_size=30),
    kept=st.integers(1, 3),
    earlier=st.integers(0, 5),
)
def test_a_job_is_overtaken_for_a_bounded_time_however_many_new_clients_come(
    costs: list[float], kept: int, earlier: int
) -> None:
    """New clients, whose tag is that of the job that waits, always have the loaded network."""
    tags, queue, preference = StartTags(), TagQueue(), Preference(LoadedModels(kept))
    preference.took("quick", 1.0, ahead=False)
    for _ in range(earlier):  # it went ahead of others before
        preference.took("quick", 1.0, ahead=True)
    queue.put(0, "slow", tags.start("patient", 1.0))
    overtaken = 0.0
    for number in range(1, 10_000):
        cost = costs[number % len(costs)]
        tag = tags.start(f"client {number}", cost)
        queue.put(number, "quick", tag)
        taken, ahead = queue.take(preference.delays(MODELS))
        if taken == 0:
            break
        assert taken == number
        tags.served(tag)
        preference.took("quick", cost, ahead=ahead)
        overtaken += cost
    assert taken == 0, "it waits for ever"
    assert overtaken <= STRETCH * LOADS["slow"] + max(costs)


def test_what_is_not_loaded_counts_as_stretch_times_its_loading_time_later() -> None:
    preference = Preference(LoadedModels(1))
    assert preference.delays(MODELS) == {"quick": 0.5, "slow": 30.0}
    preference.took("slow", 2.0, ahead=False)
    assert preference.delays(MODELS) == {"quick": 0.5, "slow": 0.0}
    preference.took("quick", 2.0, ahead=False)
    preference.took("quick", 4.0, ahead=True)
    assert preference.delays(MODELS) == {"quick": 0.0, "slow": 26.0}
    assert preference.delays({"gone": {}, "family": {"quick": 0.1, "slow": 3.0}}) == {
        "gone": 0.0,
        "family": 0.0,
    }


def test_workers_that_have_the_network_loaded_ask_first() -> None:
    others = [Seen(Member.of_this_process(f"worker-{n}", WORKER), 0, 0, False) for n in range(9)]
    membership = Membership(
        Database("postgresql://unused"), lambda: others[0].member, 30, Rescuer(30, 3, lambda _: ())
    )
    membership.others = others
    first = [membership.turn(hurries=True) for _ in range(200)]
    later = [membership.turn(hurries=False) for _ in range(200)]
    assert 0 <= min(first) < max(first) <= min(later) < max(later) <= 2 * 9 * 0.002


# --- in the database ------------------------------------------------------------------------------


async def test_workers_that_fetch_at_once_take_each_job_once_and_none_too_far_ahead(
    database: Database,
) -> None:
    models, count = list(LOADS), 60

    async def add(connection: Connection) -> None:
        for number in range(count):
            model = "slow" if number % 6 == 0 else "quick"
            await submit(connection, job_of(model, f"client {number % 7}"))

    await database.run(add)
    tags: dict[str, tuple[str, float]] = {}

    async def read(connection: Connection) -> None:
        found = await connection.execute("SELECT id, model, tag FROM jobs")
        tags.update({job_id: (model, tag) for job_id, model, tag in await found.fetchall()})

    await database.run(read)
    taken: list[str] = []

    async def work(loaded: str) -> None:
        worker = await database.run(work_queue.register)
        preference = Preference(LoadedModels(1))
        preference.took(loaded, 1.0, ahead=False)
        mine: list[tuple[float, dict[str, float]]] = []
        while True:
            delays = preference.delays(MODELS)
            lease = await database.run(
                functools.partial(work_queue.take, worker=worker, models=models, delays=delays)
            )
            if lease is None:
                return
            model, tag = tags[lease.job.id]
            taken.append(lease.job.id)
            # It waited when the ones before were taken. Priorities are tenths of a second.
            for earlier, delays_then in mine:
                assert earlier <= tag + delays_then[model] + 0.2
            mine.append((tag, delays))
            preference.took(model, lease.seconds, ahead=lease.ahead)

    async with asyncio.TaskGroup() as working:
        for number in range(6):
            working.create_task(work(models[number % 2]), name=f"worker {number}")
    assert sorted(taken) == sorted(tags)


async def test_taking_a_job_reads_an_entry_of_each_model_and_not_the_queue(
    database: Database,
) -> None:
    async def prepare(connection: Connection) -> None:
        await connection.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, priority, args) "
            "SELECT 'another', 'upscale', -number, '{}' FROM generate_series(1, 5000) AS number"
        )
        for model in LOADS:
            await submit(connection, job_of(model, "late"), 1e6)
        await submit(connection, job_of("quick", "late"))
        await connection.execute("ANALYZE procrastinate_jobs")

    await database.run(prepare)
    worker = await database.run(work_queue.register)

    async def read(connection: Connection) -> int:
        found = await connection.execute(
            "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables "
            "WHERE relname = 'procrastinate_jobs'"
        )
        row = await found.fetchone()
        return int(row[0]) if row else 0

    async def take(connection: Connection) -> tuple[work_queue.Lease | None, int]:
        before = await read(connection)
        lease = await work_queue.take(connection, worker, [*LOADS, "none"], {"slow": 30.0})
        return lease, await read(connection) - before

    lease, rows = await database.run(take)
    assert lease is not None
    assert lease.job.request.model_name == "quick"
    assert 0 < rows <= 10


# --- a worker -------------------------------------------------------------------------------------


async def test_a_worker_loads_a_network_once_for_the_jobs_that_need_it(
    tmp_path: Path, models_dir: Path
) -> None:
    """The first job needs a network that takes long to load; quick ones of others come after it."""
    made = Cluster(
        tmp_path, models_dir, servers=1, workers=1,
        settings={"upscaler.default_model": FAST["model_name"], "limits.max_concurrent_jobs": 1},
    )  # fmt: skip
    (worker,), made.workers = made.workers, []
    picture = resized(24, 16)
    models = ["realesrgan-x4plus", *[FAST["model_name"]] * 3]
    async with running_cluster(made) as cluster:
        url = cluster.servers[0].url + "/api/v1"
        jobs = []
        for number, model in enumerate(models):
            # Each client has an address of its own, so that all have the same start tag.
            connector = aiohttp.TCPConnector(local_addr=(f"127.0.0.{number + 2}", 0))
            async with aiohttp.ClientSession(connector=connector) as session:
                jobs.append(await submitted(session, url, picture, model_name=model, scale="4"))
        try:
            await worker.start()
            async with aiohttp.ClientSession() as session:
                for job_id in jobs:
                    await until_state(session, url, job_id, "completed")
        finally:
            await worker.stop()
        found = await asyncio.to_thread(
            cluster.postgres.execute, "SELECT model, tag FROM jobs ORDER BY finished"
        )
    assert found == [(model, 0.0) for model in (*models[1:], models[0])]
