"""Lost workers: a job is tried again, but not for ever, and workers that come back lost nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from testkit.jobs import make_job
from testkit.postgres import PostgresServer
from upscaled.blobs.folder import FolderBlobs
from upscaled.cluster import work_queue
from upscaled.cluster.records import SharedJobStore, WorkerJobStore
from upscaled.cluster.rescue import Rescuer
from upscaled.cluster.work_queue import Lease
from upscaled.jobs.job import Job, JobState
from upscaled.jobs.postgres_database import Database
from upscaled.jobs.webhook_messages import Message

LEASE_SECONDS = 0.001


def no_messages(_: Job) -> Sequence[Message]:
    return ()


class Jobs:
    """Takes a job with workers that are lost right afterwards."""

    def __init__(self, database: Database, max_crashes: int) -> None:
        self.database = database
        self.store = SharedJobStore(database, no_messages, fair=True)
        self.worker_store = WorkerJobStore(
            database, FolderBlobs(Path("/nonexistent")), lambda _: Path(), no_messages, print
        )
        self._rescuer = Rescuer(LEASE_SECONDS, max_crashes, no_messages)
        self.job = make_job()

    async def lose_a_worker(self) -> tuple[Lease, Job]:
        """Return the lost lease, and the job afterwards."""
        worker = await self.database.run(work_queue.register)
        models = [self.job.request.model_name]
        lease = await self.database.run(lambda c: work_queue.take(c, worker, models))
        assert lease is not None
        # The database's clock has moved on by a lease since it was registered.
        await self.database.run(lambda c: c.execute("SELECT pg_sleep(%s)", (2 * LEASE_SECONDS,)))
        assert await self.database.run(self._rescuer.rescue) == [self.job.id]
        return lease, await self.now()

    async def now(self) -> Job:
        job = await self.store.get(self.job.id)
        assert job is not None
        return job


@pytest.fixture
async def database(postgres: PostgresServer) -> AsyncIterator[Database]:
    async with postgres.opened_database() as database:
        yield database


@pytest.mark.parametrize(("max_crashes", "lost"), [(1, 2), (2, 2), (3, 3)])
async def test_a_job_fails_when_so_many_workers_were_lost_and_never_with_the_first(
    database: Database, max_crashes: int, lost: int
) -> None:
    jobs = Jobs(database, max_crashes)
    await jobs.store.put(jobs.job)
    for number in range(1, lost):
        _, job = await jobs.lose_a_worker()
        assert (job.state, job.crashes) == (JobState.QUEUED, number)
    _, job = await jobs.lose_a_worker()
    assert (job.state, job.error) == (
        JobState.FAILED,
        f"The worker that did this picture was lost {lost} times; it is not tried again "
        "(upscaler.max_crashes).",
    )


async def test_the_loss_of_a_worker_that_comes_back_does_not_count(database: Database) -> None:
    jobs = Jobs(database, 1)
    await jobs.store.put(jobs.job)
    for _ in range(4):
        lease, job = await jobs.lose_a_worker()
        assert (job.state, job.crashes) == (JobState.QUEUED, 1)
        for _ in range(2):  # a transaction whose answer was lost is repeated
            await jobs.worker_store.survived(lease)
            assert (await jobs.now()).crashes == 0
    await jobs.lose_a_worker()
    lease, job = await jobs.lose_a_worker()
    assert job.state is JobState.FAILED
    await jobs.worker_store.survived(lease)
    assert await jobs.now() == job
