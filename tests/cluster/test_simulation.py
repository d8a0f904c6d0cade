"""The model of a cluster: it is the product's order, what must hold holds, and the checks see."""

from __future__ import annotations

import functools
import random
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from testkit.jobs import make_job
from testkit.postgres import PostgresServer
from testkit.simulated_cluster import SimulatedCluster
from testkit.simulated_parts import LOADS, Settings, SimulationError, StartTags, TagQueue
from upscaled.cluster import work_queue
from upscaled.cluster.preference import Preference
from upscaled.jobs.job import Job
from upscaled.jobs.order import LoadedModels
from upscaled.jobs.postgres_database import Connection, Database
from upscaled.jobs.postgres_store import insert_job

HARSH = Settings(hours=20, death=900, cut=600, restart=1200, slow_blobs=1800, jump=3600)
SHORT = replace(HARSH, hours=3)


@pytest.fixture
async def database(postgres: PostgresServer) -> AsyncIterator[Database]:
    async with postgres.opened_database() as database:
        yield database


async def test_the_models_tags_and_order_are_those_of_the_database(database: Database) -> None:
    rng, tags, waiting = random.Random(7), StartTags(), TagQueue()
    jobs: list[tuple[str, float]] = []
    requests = [replace(make_job().request, model_name=name) for name in LOADS]

    async def submit(connection: Connection, job: Job, cost: float) -> float:
        tag = await work_queue.start_tag(connection, job.client, cost)
        entry = await work_queue.add(connection, job, tag)
        await insert_job(connection, job, queue_entry=entry, cost=cost, tag=tag)
        return tag

    worker = await database.run(work_queue.register)
    preference, went_ahead = Preference(LoadedModels(2)), 0
    for _ in range(300):
        if len(waiting) and rng.random() < 0.45:
            delays = preference.delays({name: {name: load} for name, load in LOADS.items()})
            lease = await database.run(
                functools.partial(work_queue.take, worker=worker, models=LOADS, delays=delays)
            )
            number, ahead = waiting.take(delays)
            job_id, tag = jobs[number]
            assert lease is not None
            assert (lease.job.id, lease.ahead) == (job_id, ahead)
            tags.served(tag)
            preference.took(lease.job.request.model_name, lease.seconds, ahead=ahead)
            went_ahead += ahead
        else:
            request = rng.choice(requests)
            job = make_job(client=f"client {rng.randrange(4)}", request=request)
            cost = rng.choice([0.25, 1.5, 20.0, 300.0])
            tag = tags.start(job.client, cost)
            found = await database.run(functools.partial(submit, job=job, cost=cost))
            assert found == pytest.approx(tag)
            waiting.put(len(jobs), request.model_name, tag)
            jobs.append((job.id, tag))
    assert len(jobs) > 100
    assert went_ahead > 10


@pytest.mark.parametrize("seed", range(6))
def test_every_job_ends_once_and_in_fair_time_whatever_fails(seed: int) -> None:
    run = SimulatedCluster(seed, HARSH).run()
    assert min(run.faults.values()) > 0
    assert run.stale_writes > 0, "some workers came back after their lease"
    assert any(job.crashes for job in run.jobs)


def test_a_seed_replays_event_by_event() -> None:
    first, again = (SimulatedCluster(3, SHORT).run() for _ in range(2))
    assert first.jobs == again.jobs
    assert SimulatedCluster(4, SHORT).run().jobs != first.jobs


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (Settings(hours=20, fenced=False), "then as completed|the result of a lost lease"),
        (Settings(hours=20, ordered=False), "of work that came later"),
        (Settings(hours=20, bounded=False), "of work that came later"),
    ],
)
def test_a_cluster_without_fences_order_or_bounds_is_found_out_with_its_seed(
    broken: Settings, said: str
) -> None:
    with pytest.raises(SimulationError, match=rf"seed 1, .*({said})"):
        SimulatedCluster(1, broken).run()
