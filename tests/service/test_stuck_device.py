"""A device whose process can't be killed delays no cancellation, no other device and no stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path

import aiohttp
import psutil
import pytest

from testkit.paths import DATA
from testkit.server_process import ServerProcess, server_process
from testkit.services import dispatcher_of, make_config, running, submit
from testkit.unkillable import survive_sigkill
from testkit.unreapable import NotAllowedError, unreapable
from testkit.waiting import until
from upscaled.engines.builtin.engine import BuiltinEngine
from upscaled.jobs.job import Job, JobState
from upscaled.service.service import Service
from upscaled.workers.processes import KILL_SECONDS

PICTURE = DATA / "coffee.jpg"


def the_engine(service: Service) -> BuiltinEngine:
    (shared,) = service._running.pool._places[0].engines
    assert isinstance(shared.engine, BuiltinEngine)
    return shared.engine


async def until_a_tile_runs(service: Service, job: Job) -> int:
    """Wait until the engine's process works on a job; return its process id."""
    async with asyncio.timeout(60), service.jobs.subscribe(job.id) as updates:
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
            really_kill = survive_sigkill(patch, only=pid)
            async with asyncio.timeout(20):
                assert (await service.jobs.cancel(job.id)).state is JobState.CANCELLED
                await until(lambda: service._running.pool.unusable)
            assert (await service.reports.health())["unusable"] == {
                "cpu": f"The builtin engine (cpu) process ({pid}) does not end although it was "
                "killed; a driver or a disk is probably hanging."
            }
        waiting = await submit(service, PICTURE)
        really_kill(pid)
        assert (await service.jobs.wait(waiting.id)).state is JobState.COMPLETED
        assert "unusable" not in await service.reports.health()


async def test_the_service_stops_beside_a_process_that_does_not_end(
    tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(make_config(tmp_path / "data", models_dir)) as service:
        pid = await until_a_tile_runs(service, await submit(service, PICTURE, tta="true"))
        engine, ended = the_engine(service), asyncio.Event()
        really_kill = survive_sigkill(monkeypatch, only=pid)
        async with asyncio.timeout(60):
            await service.stop()
        engine.when_usable(ended.set)
        really_kill(pid)
        async with asyncio.timeout(10):
            await ended.wait()


def engine_of(server: ServerProcess) -> int:
    """Return the id of the engine's process."""
    (pid,) = (
        child.pid
        for child in psutil.Process(server.pid).children(recursive=True)
        if "upscaled.engines.builtin.worker" in child.cmdline()
    )
    return pid


async def test_from_outside_an_end_that_does_not_come_delays_cancel_and_stop_by_seconds_only(
    tmp_path: Path, models_dir: Path
) -> None:
    # With the page, the picture of a cancelled job stays, so that it can be tried again.
    settings = {"server.drain_seconds": 1, "features.web": False}
    async with (
        server_process(tmp_path, models_dir, settings) as server,
        aiohttp.ClientSession() as session,
        contextlib.AsyncExitStack() as held,
    ):
        with PICTURE.open("rb") as picture:
            form = aiohttp.FormData({"model_name": "realesr-animevideov3", "tta": "true"})
            form.add_field("image", picture, filename="a.jpg")
            async with session.post(server.url + "/upscale", data=form) as answer:
                assert answer.status == 202
                job_id = (await answer.json())["job_id"]
        async with session.get(f"{server.url}/events/{job_id}") as events:
            async for line in events.content:
                if b'"stage": "upscaling"' in line or b'"stage":"upscaling"' in line:
                    break
        pid = await asyncio.to_thread(engine_of, server)
        try:
            await held.enter_async_context(unreapable(pid))
        except NotAllowedError:
            pytest.skip("this user may not trace processes")
        async with asyncio.timeout(2 * KILL_SECONDS):
            async with session.post(f"{server.url}/cancel/{job_id}") as answer:
                assert (await answer.json())["status"] == "cancelled"
            async with session.get(server.url + "/health") as answer:
                assert str(pid) in (await answer.json())["unusable"]["cpu"]
        assert server.files() == []
        async with asyncio.timeout(2 * KILL_SECONDS):
            status, _ = await server.end(signal.SIGTERM)
        assert status == 0


async def test_a_caller_who_hangs_up_leaves_no_files_of_the_job_that_he_cancelled(
    tmp_path: Path, models_dir: Path
) -> None:
    async with running(make_config(tmp_path / "data", models_dir)) as service:
        job = await submit(service, PICTURE, tta="true")
        await until_a_tile_runs(service, job)
        cancelling = asyncio.create_task(service.jobs.cancel(job.id))
        async with asyncio.timeout(60):
            await service.jobs.wait(job.id)
        cancelling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelling
        folder = tmp_path / "data" / "jobs" / job.id
        assert folder.exists(), "it was over too soon"
        async with asyncio.timeout(60):
            await dispatcher_of(service)._cancels.done()
        assert not folder.exists()


async def test_the_stop_waits_for_a_cancel_that_has_begun(tmp_path: Path, models_dir: Path) -> None:
    folder = tmp_path / "data" / "jobs"
    async with running(make_config(tmp_path / "data", models_dir)) as service:
        job = await submit(service, PICTURE, tta="true")
        await until_a_tile_runs(service, job)
        cancelling = asyncio.create_task(service.jobs.cancel(job.id))
        await service.jobs.wait(job.id)
        cancelling.cancel()
        async with asyncio.timeout(60):
            await service.stop()
        assert list(folder.iterdir()) == []
