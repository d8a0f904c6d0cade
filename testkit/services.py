"""Real services for tests and benches, each in its own folder."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from upscaled.config.settings import Config
from upscaled.config.sources import load
from upscaled.jobs.job import Job, JobState
from upscaled.service.dispatcher import Dispatcher
from upscaled.service.service import Service

FAST = {"model_name": "realesr-animevideov3", "scale": "2"}


def make_config(data_dir: Path, models_dir: Path, **flags: str) -> Config:
    """Return settings for a service on the CPU; ``flags`` by ``section__key``.

    Without the page, unless the flags say otherwise, so that no upload outlives its job.
    """
    named = {name.replace("__", "."): value for name, value in flags.items()}
    return load(
        environ={},
        flags={
            "storage.data_dir": str(data_dir),
            "upscaler.models_path": str(models_dir),
            "upscaler.engine": "builtin",
            "features.web": "false",
            "upscaler.calibrate": "false",
            **named,
        },
    )


def dispatcher_of(service: Service) -> Dispatcher:
    """Return the dispatcher of a service that does its jobs itself."""
    runner = service._running.runner
    assert isinstance(runner, Dispatcher)
    return runner


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[Service]:
    """Run a service for the length of the block."""
    service = Service(config)
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


async def submit(service: Service, picture: Path, **fields: str) -> Job:
    """Submit a copy of ``picture``."""
    upload = service.submissions.reserve_upload()
    await asyncio.to_thread(shutil.copy, picture, upload)
    return await service.submissions.submit({**FAST, **fields}, upload, picture.name)


async def until_processing(service: Service, job_id: str) -> Job:
    """Wait until a job holds a slot, then return it."""
    async with asyncio.timeout(60), service.jobs.subscribe(job_id) as updates:
        async for update in updates:
            if update.job.state is not JobState.QUEUED:
                break
    return update.job


async def until_progress(service: Service, job_id: str, percent: int) -> None:
    """Wait until a job is ``percent`` done."""
    async with asyncio.timeout(60), service.jobs.subscribe(job_id) as updates:
        async for update in updates:
            if update.job.progress >= percent:
                break
