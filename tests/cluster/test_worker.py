"""A worker of a cluster whose own parts fail."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from testkit.postgres import PostgresServer
from testkit.running import FAST_MODEL, configured
from testkit.services import submit
from upscaled.jobs.job import Job, JobState
from upscaled.jobs.workspace import Workspace
from upscaled.server.roles import make_service
from upscaled.service.dispatcher import INTERNAL_ERROR
from upscaled.service.service import Service


@contextlib.asynccontextmanager
async def server_and_worker(
    postgres: PostgresServer, folder: Path, models_dir: Path
) -> AsyncIterator[Service]:
    """An API server that is a worker too."""
    with postgres.database() as url:
        service = make_service(
            configured(
                folder / "data", models_dir, upscaler__default_model=FAST_MODEL,
                cluster__database_url=url, cluster__blobs=str(folder / "blobs"),
            ),
            works=True,
        )  # fmt: skip
        await service.start()
        try:
            yield service
        finally:
            await service.stop()


async def ended(service: Service, picture: Path) -> Job:
    """Submit a picture; return its job when that has ended."""
    job = await submit(service, picture)
    async with asyncio.timeout(60):
        return await service.jobs.wait(job.id)


def break_removals(monkeypatch: pytest.MonkeyPatch, *, at_the_end: bool) -> asyncio.Queue[str]:
    """Let a worker's deletions of a job's folder fail: before it begins a job, or at its end.

    Returns:
        The ids of the jobs for which that happened.
    """
    remove, failed = Workspace.remove, asyncio.Queue[str]()

    async def broken(self: Workspace, job_id: str) -> None:
        begun = await asyncio.to_thread(self.folder(job_id).exists)
        if self.data_dir.name == "work" and at_the_end == begun:
            failed.put_nowait(job_id)
            raise RuntimeError("a fault of ours")
        await remove(self, job_id)

    monkeypatch.setattr(Workspace, "remove", broken)
    return failed


async def test_a_worker_that_cannot_tidy_up_takes_the_next_jobs(
    postgres: PostgresServer,
    tmp_path: Path,
    models_dir: Path,
    thumbnail: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    untidied = break_removals(monkeypatch, at_the_end=True)
    async with server_and_worker(postgres, tmp_path, models_dir) as service:
        # One after the other, and more than a worker holds at a time.
        for _ in range(5):
            job = await ended(service, thumbnail)
            assert job.state is JobState.COMPLETED
            assert await asyncio.wait_for(untidied.get(), 10) == job.id


async def test_a_job_that_cannot_be_begun_fails_and_holds_up_no_other(
    postgres: PostgresServer,
    tmp_path: Path,
    models_dir: Path,
    thumbnail: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with server_and_worker(postgres, tmp_path, models_dir) as service:
        with monkeypatch.context() as broken:
            break_removals(broken, at_the_end=False)
            for _ in range(4):
                job = await ended(service, thumbnail)
                assert (job.state, job.server_fault) == (JobState.FAILED, True)
                assert job.error == INTERNAL_ERROR
        assert (await ended(service, thumbnail)).state is JobState.COMPLETED
