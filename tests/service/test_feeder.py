"""The feeder of the dispatcher goes on after an error, and has lost no place."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from testkit.services import make_config, running, submit
from upscaled.jobs.job import JobState
from upscaled.jobs.order import Waiting
from upscaled.jobs.queue import JobQueue


async def test_errors_of_the_queue_cost_no_place(
    tmp_path: Path, models_dir: Path, thumbnail: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, failures = JobQueue.take, iter(range(20))  # more than there are permits and turns

    async def failing(queue: JobQueue) -> Waiting:
        if next(failures, None) is not None:
            raise OSError("the queue can't be read")
        return await take(queue)

    monkeypatch.setattr(JobQueue, "take", failing)
    monkeypatch.setattr("upscaled.service.dispatcher._FEED_AGAIN_SECONDS", 0.0)
    config = make_config(tmp_path / "data", models_dir)
    async with running(config) as service, asyncio.timeout(60):
        jobs = [await submit(service, thumbnail) for _ in range(5)]
        ended = [await service.jobs.wait(job.id) for job in jobs]
    assert [job.state for job in ended] == [JobState.COMPLETED] * 5
    assert next(failures, None) is None
