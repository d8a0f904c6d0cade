"""Small pictures share one engine at the same time, without affecting each other."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from PIL import Image

from testkit.paths import DATA
from testkit.services import make_config, running, submit, until_processing
from testkit.waiting import until
from upscaled.engines.builtin.engine import BuiltinEngine
from upscaled.jobs.job import Job, JobState
from upscaled.service.service import Service

SLOW = {"model_name": "realesrgan-x4plus", "scale": "4"}


@pytest.fixture
async def service(tmp_path: Path, models_dir: Path) -> AsyncIterator[Service]:
    """A service whose CPU two small pictures may share."""
    config = make_config(
        tmp_path / "data", models_dir, upscaler__gpu_ids="-1", upscaler__threads="2"
    )
    async with running(config) as started:
        yield started


@pytest.fixture
def thumbnails(tmp_path: Path) -> list[Path]:
    """Six small pictures, all different."""
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    with Image.open(DATA / "coffee.jpg") as photo:
        for number, path in enumerate(paths):
            left = 40 * number
            photo.crop((left, left, left + 48, left + 40)).save(path)
    return paths


def the_engine(service: Service) -> BuiltinEngine:
    (shared,) = service._running.pool._places[0].engines
    assert isinstance(shared.engine, BuiltinEngine)
    return shared.engine


async def until_in_the_engine(service: Service, jobs: list[Job]) -> psutil.Process:
    """Wait until jobs reach the engine's process; return that process."""
    for job in jobs:
        await until_processing(service, job.id)
    engine = the_engine(service)
    await until(lambda: engine._clock._tasks >= len(jobs), 60)
    return psutil.Process(engine.pid)


async def result_of(service: Service, job: Job) -> str:
    ended = await service.jobs.wait(job.id)
    assert (ended.state, [attempt.outcome for attempt in ended.attempts]) == (
        JobState.COMPLETED,
        ["ok"],
    )
    result = await service.jobs.result(job.id)
    return hashlib.sha256(result.path.read_bytes()).hexdigest()


async def test_they_come_out_the_same_together_as_each_alone(
    service: Service, thumbnails: list[Path]
) -> None:
    alone = [await result_of(service, await submit(service, path)) for path in thumbnails]
    jobs = await asyncio.gather(*(submit(service, path) for path in thumbnails))
    together = await asyncio.gather(*(result_of(service, job) for job in jobs))
    assert together == alone
    assert len(set(alone)) == len(alone)


async def test_two_are_worked_on_at_once_and_a_large_one_alone(
    service: Service, thumbnails: list[Path]
) -> None:
    small = [await submit(service, path, **SLOW) for path in thumbnails[:2]]
    for job in small:
        await until_processing(service, job.id)
    assert [(await service.jobs.get(job.id)).state for job in small] == [JobState.PROCESSING] * 2
    large = await submit(service, DATA / "coffee.jpg", **SLOW)
    late = await submit(service, thumbnails[2], **SLOW)
    await until_processing(service, large.id)
    # Their inference is over; they may still be encoded.
    assert min([(await service.jobs.get(job.id)).progress for job in small]) >= 95
    assert (await service.jobs.get(late.id)).state is JobState.QUEUED
    await service.jobs.cancel(large.id)
    await result_of(service, late)


async def test_those_that_take_long_share_the_engine_too(
    service: Service, thumbnails: list[Path]
) -> None:
    # Beyond what the lookahead would look ahead: each has one tile, and so no percentages.
    jobs = [await submit(service, path, tta="true", **SLOW) for path in thumbnails[:2]]
    await until_in_the_engine(service, jobs)
    for job in jobs:
        await service.jobs.cancel(job.id)


async def test_a_cancelled_one_takes_nobody_along(service: Service, thumbnails: list[Path]) -> None:
    cancelled, stays = [await submit(service, path, **SLOW) for path in thumbnails[:2]]
    before = await until_in_the_engine(service, [cancelled, stays])
    await service.jobs.cancel(cancelled.id)
    assert not before.is_running()
    await result_of(service, stays)


async def test_an_engine_that_is_killed_fails_none_of_them(
    service: Service, thumbnails: list[Path]
) -> None:
    jobs = [await submit(service, path, **SLOW) for path in thumbnails[:3]]
    process = await until_in_the_engine(service, jobs[:2])
    os.kill(process.pid, signal.SIGKILL)
    for job in jobs:
        await result_of(service, job)
