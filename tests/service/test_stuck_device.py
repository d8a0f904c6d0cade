"""A device whose process can't be killed delays no cancellation, no other device and no stop."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from testkit.paths import DATA
from testkit.services import make_config, running, submit
from testkit.unkillable import survive_sigkill
from testkit.waiting import until
from upscaled.engines.builtin.engine import BuiltinEngine
from upscaled.jobs.job import Job, JobState
from upscaled.service.service import Service

PICTURE = DATA / "coffee.jpg"


def the_engine(service: Service) -> BuiltinEngine:
    (shared,) = service._running.pool._places[0].engines
    assert isinstance(shared.engine, BuiltinEngine)
    return shared.engine


async def until_a_tile_runs(service: Service, job: Job) -> int:
    """Wait until the engine's process works on a job; return its process id."""
    async with asyncio.timeout(60), service.subscribe(job.id) as updates:
        async for update in updates:
            if update.job.state is JobState.PROCESSING and update.job.progress > 1:
                break
    pid = the_engine(service).pid
    assert pid is not None
    return pid


async def test_the_slot_is_given_up_until_the_process_has_ended(
    tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(make_config(tmp_path / "data", models_dir)) as service:
        job = await submit(service, PICTURE, tta="true")
        pid = await until_a_tile_runs(service, job)
        with monkeypatch.context() as patch:
            really_kill = survive_sigkill(patch)
            async with asyncio.timeout(20):
                assert (await service.cancel(job.id)).state is JobState.CANCELLED
                await until(lambda: service._running.pool.unusable)
            assert (await service.health())["unusable"] == {
                "cpu": f"The builtin engine (cpu) process ({pid}) does not end although it was "
                "killed; a driver or a disk is probably hanging."
            }
        waiting = await submit(service, PICTURE)
        really_kill(pid)
        assert (await service.wait(waiting.id)).state is JobState.COMPLETED
        assert "unusable" not in await service.health()


async def test_the_service_stops_beside_a_process_that_does_not_end(
    tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(make_config(tmp_path / "data", models_dir)) as service:
        pid = await until_a_tile_runs(service, await submit(service, PICTURE, tta="true"))
        engine, ended = the_engine(service), asyncio.Event()
        really_kill = survive_sigkill(monkeypatch)
        async with asyncio.timeout(60):
            await service.stop()
        engine.when_usable(ended.set)
        really_kill(pid)
        async with asyncio.timeout(10):
            await ended.wait()
