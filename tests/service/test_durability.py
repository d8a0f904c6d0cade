"""Accepted jobs survive crashes, a full disk, and a stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from PIL import Image

from testkit.child_processes import child_process
from testkit.jobs import make_job
from testkit.logs import read_until, until_logged
from testkit.paths import DATA
from testkit.services import make_config, running, submit, until_progress
from testkit.small_disk import SmallDisk, small_disk
from upscaled.errors import NoMemoryError, NoSpaceError, ResultGoneError, UpscaledError
from upscaled.imaging import ResultProgress
from upscaled.jobs.job import Job, JobState
from upscaled.jobs.sqlite_store import SqliteJobStore
from upscaled.jobs.workspace import Workspace
from upscaled.pictures import Size
from upscaled.pipeline import checkpoint
from upscaled.pipeline.footprint import TimeLimit, disk_bytes, memory_bytes
from upscaled.pipeline.run import PipelineRun
from upscaled.service import disk_room
from upscaled.service.service import Service

COFFEE = DATA / "coffee.jpg"


async def left_behind(
    data_dir: Path, upload: Path, *, begun: bool = False, **changes: object
) -> str:
    """Leave a job as a dying server does; return its id."""
    job = make_job(**changes)
    workspace, store = Workspace(data_dir), SqliteJobStore(data_dir / "jobs.sqlite3")
    await workspace.open()
    await store.open()
    copy = workspace.new_upload()
    await asyncio.to_thread(copy.write_bytes, await asyncio.to_thread(upload.read_bytes))
    await workspace.adopt(copy, job.id)
    if begun:
        await workspace.begin(job.id)
    await store.put(job)
    await store.close()
    workspace.close()
    return job.id


@pytest.mark.parametrize("state", [JobState.PROCESSING, JobState.QUEUED])
async def test_a_picture_that_kills_the_server_is_not_tried_for_ever(
    tmp_path: Path, models_dir: Path, thumbnail: Path, state: JobState
) -> None:
    data = tmp_path / "data"
    job_id = await left_behind(data, thumbnail, begun=True, state=state, crashes=2)
    async with running(make_config(data, models_dir)) as service:
        failed = await service.jobs.wait(job_id)
        assert failed.state is JobState.FAILED
        assert failed.error == (
            "The server died 3 times while it worked on this picture; it is not tried again "
            "(upscaler.max_crashes)."
        )
        assert not list((data / "jobs").iterdir())


async def test_an_interrupted_job_runs_again_and_waiting_is_no_crash(
    tmp_path: Path, models_dir: Path, thumbnail: Path
) -> None:
    data = tmp_path / "data"
    size: dict[str, Any] = {"input_size": Size(48, 32)}
    interrupted = await left_behind(data, thumbnail, state=JobState.PROCESSING, crashes=1, **size)
    waiting = await left_behind(data, thumbnail, state=JobState.QUEUED, crashes=2, **size)
    async with running(make_config(data, models_dir)) as service:
        outcomes = [await service.jobs.wait(job_id) for job_id in (interrupted, waiting)]
    assert [job.crashes for job in outcomes] == [2, 2]
    assert not [job.error for job in outcomes if "died" in (job.error or "")]


async def test_a_job_that_was_stopped_goes_on_at_its_last_band(
    tmp_path: Path,
    models_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("upscaled.pipeline.bands._BAND_BYTES", 1)  # a band for every row of tiles
    tall = tmp_path / "tall.png"
    with Image.open(COFFEE) as photo:
        photo.resize((64, 640)).save(tall)
    config = make_config(tmp_path / "data", models_dir, server__drain_seconds="0")
    async with running(config) as service:
        whole = await submit(service, tall, tile_size="32")
        await service.jobs.wait(whole.id)
        wanted = await asyncio.to_thread((await service.jobs.result(whole.id)).path.read_bytes)
        job = await submit(service, tall, tile_size="32")
        await until_progress(service, job.id, 40)
    folder = tmp_path / "data" / "jobs" / job.id
    assert await checkpoint.has_advanced(folder)
    caplog.set_level(logging.INFO)
    async with running(config) as service:
        done = await service.jobs.wait(job.id)
        assert (done.state, done.runs, done.crashes) == (JobState.COMPLETED, 2, 0)
        made = await asyncio.to_thread((await service.jobs.result(job.id)).path.read_bytes)
    assert made == wanted
    assert [record.message for record in caplog.records].count("job goes on") == 1


async def test_a_run_that_finished_a_band_is_no_crash(
    tmp_path: Path, models_dir: Path, thumbnail: Path
) -> None:
    data = tmp_path / "data"
    size: dict[str, Any] = {"input_size": Size(48, 32)}
    job_id = await left_behind(data, thumbnail, state=JobState.PROCESSING, crashes=2, **size)
    folder = data / "jobs" / job_id
    await checkpoint.save(
        folder, checkpoint.Checkpoint("another work", 32, ResultProgress(16), began=0)
    )
    async with running(make_config(data, models_dir)) as service:
        outcome = await service.jobs.wait(job_id)
    assert (outcome.state, outcome.crashes) == (JobState.COMPLETED, 0)


async def test_a_result_that_vanished_while_the_server_was_down_does_not_stop_the_start(
    tmp_path: Path, models_dir: Path, thumbnail: Path
) -> None:
    config = make_config(tmp_path / "data", models_dir)
    async with running(config) as service:
        job = await submit(service, thumbnail)
        await service.jobs.wait(job.id)
        path = (await service.jobs.result(job.id)).path
    path.unlink()
    path.parent.rmdir()
    async with running(config) as service:
        with pytest.raises(ResultGoneError, match="no longer on the server's disk") as gone:
            await service.jobs.result(job.id)
        assert gone.value.code == "expired"


async def test_a_full_disk_does_not_hold_up_the_start_or_the_stop(
    tmp_path: Path, models_dir: Path, thumbnail: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upscaled.service.recovery._PATIENCE_SECONDS", 0.5)
    data = tmp_path / "data"
    crashed = await left_behind(data, thumbnail, state=JobState.PROCESSING, crashes=2)
    lost = await left_behind(data, thumbnail, state=JobState.COMPLETED, finished=time.time())
    await asyncio.to_thread((data / "jobs" / lost / "upload").unlink)
    put = SqliteJobStore.put

    async def full(_: SqliteJobStore, job: Job, *__: object, **___: object) -> None:
        raise NoSpaceError(f"No room for the record of job {job.id}.")

    monkeypatch.setattr(SqliteJobStore, "put", full)
    async with asyncio.timeout(60), running(make_config(data, models_dir)) as service:
        with pytest.raises(ResultGoneError, match="no longer on the server's disk"):
            await service.jobs.result(lost)
        assert (await service.jobs.get(crashed)).state is JobState.PROCESSING
    async with asyncio.timeout(60), running(make_config(data, models_dir)) as service:
        monkeypatch.setattr(SqliteJobStore, "put", put)
        assert (await service.jobs.wait(crashed)).state is JobState.FAILED


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk of 8 MiB, where this user may mount one."""
    with small_disk(tmp_path / "disk", 8 << 10) as mounted:
        yield mounted


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_room, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr("upscaled.service.admission.DISK_RESERVE", 0)


async def waits_for_room(service: Service, job_id: str, caplog: pytest.LogCaptureFixture) -> None:
    """Wait until a job has met the full disk, and check that it has not failed."""
    await until_logged(caplog, "room on the disk", "recorded yet")
    assert (await service.jobs.get(job_id)).state in {JobState.QUEUED, JobState.PROCESSING}


STAGES = ("begin", "prepare", "upscale", "finish", "record")


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("stage", STAGES)
async def test_a_disk_that_runs_full_delays_a_job_and_loses_none(
    disk: SmallDisk,
    models_dir: Path,
    thumbnail: Path,
    stage: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if stage in {"begin", "prepare"}:  # stages of what is too large to be decoded on arrival
        monkeypatch.setattr("upscaled.imaging.imaging._LOOK_PIXELS", 0)
    async with running(make_config(disk.folder / "data", models_dir)) as service:
        first = await submit(service, thumbnail)
        assert (await service.jobs.wait(first.id)).state is JobState.COMPLETED
        owner: object = {
            "begin": service._workspace,
            "prepare": service._imaging,
            "upscale": PipelineRun,
            "finish": service._imaging,
            "record": service._registry,
        }[stage]
        name = {"upscale": "_upscale", "record": "advance"}.get(stage, stage)
        original = getattr(owner, name)
        ballast: list[Path] = []

        async def full_from_here(*args: object, **named: object) -> object:
            if not ballast and (stage != "record" or JobState.COMPLETED in args):
                ballast.append(await asyncio.to_thread(disk.fill))
            return await original(*args, **named)

        monkeypatch.setattr(owner, name, full_from_here)
        job = await submit(service, thumbnail)
        await waits_for_room(service, job.id, caplog)
        assert (await service.jobs.get(first.id)).state is JobState.COMPLETED, "reading goes on"
        with pytest.raises((NoSpaceError, OSError)):  # the service's word, or the copying's
            await submit(service, thumbnail, scale="3")
        ballast[0].unlink()
        done = await service.jobs.wait(job.id)
        assert (done.state, done.error) == (JobState.COMPLETED, None)
        with Image.open((await service.jobs.result(job.id)).path) as result:
            assert result.size == (96, 64)


@pytest.mark.usefixtures("patient")
async def test_a_full_disk_at_submission_is_told_and_leaves_nothing(
    disk: SmallDisk, models_dir: Path, thumbnail: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(make_config(disk.folder / "data", models_dir)) as service:
        ballast = await asyncio.to_thread(disk.fill, 16_384)
        with pytest.raises(NoSpaceError) as refused:
            await submit(service, thumbnail)
        assert (refused.value.status, refused.value.code) == (507, "insufficient_storage")
        # The picture fits, its record does not.
        monkeypatch.setattr("upscaled.service.admission.disk_bytes", lambda *_, **__: 0)
        outcomes = []
        for _ in range(40):
            try:
                outcomes.append((await submit(service, thumbnail)).id)
            except (UpscaledError, OSError) as error:
                outcomes.append(type(error).__name__)
                break
        assert outcomes[-1] in {"NoSpaceError", "OSError"}
        ballast.unlink()
        for job_id in outcomes[:-1]:
            assert (await service.jobs.wait(job_id)).state is JobState.COMPLETED


@pytest.mark.usefixtures("patient")
async def test_a_full_disk_is_made_room_on_by_results_that_go(
    disk: SmallDisk, models_dir: Path, thumbnail: Path
) -> None:
    async with running(make_config(disk.folder / "data", models_dir)) as service:
        jobs = [await submit(service, thumbnail) for _ in range(2)]
        fetched, old = [await service.jobs.wait(job.id) for job in jobs]
        await asyncio.to_thread(disk.fill)
        await service.jobs.delivered(fetched.id)
        assert (await service.jobs.get(fetched.id)).result_gone == "downloaded"
        await asyncio.to_thread(disk.fill)
        await service._cleaner.clean((old.finished or 0) + 25 * 3600)
        for job, code in ((fetched, "already_downloaded"), (old, "expired")):
            with pytest.raises(ResultGoneError) as gone:
                await service.jobs.result(job.id)
            assert gone.value.code == code
        (disk.folder / "filler").unlink()
        await service._cleaner.clean((old.finished or 0) + 25 * 3600)
        assert service._registry.ended.all_unrecorded() == []
        assert not list((disk.folder / "data" / "jobs").iterdir())


async def test_more_memory_than_there_is_is_told_before_the_work(
    tmp_path: Path, models_dir: Path, thumbnail: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upscaled.service.admission.available", lambda: 200 << 20)
    async with running(make_config(tmp_path / "data", models_dir)) as service:
        with pytest.raises(
            NoMemoryError, match="300 MiB of memory and 200 MiB are available"
        ) as no:
            await submit(service, thumbnail)
        assert no.value.status == 507


def test_a_job_gets_time_by_the_work_it_holds() -> None:
    limit = TimeLimit(most=10_000, per_megapixel=1000)
    small, large = make_job(input_size=Size(500, 200)), make_job(input_size=Size(8000, 5000))
    assert limit.seconds(small) == 120 + 100
    assert "220 seconds (what a picture of its size gets" in limit.complaint(small)
    assert limit.seconds(large) == 10_000
    assert "10000 seconds (upscaler.job_timeout_seconds)" in limit.complaint(large)


def test_room_is_counted_in_raw_pixels() -> None:
    assert disk_bytes(Size(10, 10), Size(20, 20), 4, "png") == 3 * (100 + 1600 + 400)
    large, result = Size(10**4, 10**4), Size(2 * 10**4, 2 * 10**4)
    assert disk_bytes(large, result, 4, "jpg") == 3 * (10**8 + 4 * 10**8) + (1 << 30)
    assert disk_bytes(large, result, 4, "webp") == 3 * (10**8 + 4 * 10**8 + 16 * 10**8)
    wide, rows = Size(40_000, 4_000), 1024 * 3 * 4 * 4 * 40_000
    assert disk_bytes(wide, wide, 4, "png") == 3 * 2 * wide.pixels + rows
    assert memory_bytes(Size(10, 10), Size(10**4, 10**4), "webp") == (300 << 20) + 10 * 10**8
    huge = memory_bytes(Size(10**4, 10**4), Size(4 * 10**4, 4 * 10**4), "png")
    assert huge == (300 << 20) + 12 * 10**8


async def test_reading_goes_on_where_a_write_in_the_same_batch_fails(tmp_path: Path) -> None:
    store = SqliteJobStore(tmp_path / "jobs.sqlite3")
    await store.open()
    job = make_job()
    await store.put(job)
    broken, found = await asyncio.gather(
        store._do(lambda c: c.execute("INSERT INTO nowhere VALUES (1)")),
        store.get(job.id),
        return_exceptions=True,
    )
    assert isinstance(broken, NoSpaceError)
    assert found == job
    await store.close()


async def test_a_stopping_server_refuses_work_finishes_its_own_and_still_answers(
    tmp_path: Path, models_dir: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        f"server: {{port: 0, drain_seconds: 60}}\nupscaler: {{engine: builtin, models_path: "
        f"'{models_dir}', gpu_ids: [-1]}}\nstorage: {{data_dir: '{tmp_path}/data'}}\n"
    )
    async with child_process(
        sys.executable, "-m", "upscaled", "serve", "--config", str(config),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as server:  # fmt: skip
        assert server.stdout is not None
        assert server.stderr is not None
        line = await read_until(server.stdout, "Listening on ")
        url = line.removeprefix("Listening on ").strip() + "/api/v1"

        with Image.open(COFFEE) as photo:
            photo.resize((96, 64)).save(tmp_path / "small.png")
        picture = (tmp_path / "small.png").read_bytes()

        async with aiohttp.ClientSession() as session:

            async def post() -> tuple[int, dict[str, str]]:
                data = aiohttp.FormData({"model_name": "realesrgan-x4plus"})
                data.add_field("image", picture, filename="a.png")
                async with session.post(url + "/upscale", data=data) as answer:
                    return answer.status, await answer.json()

            async def state(job_id: str) -> str:
                async with session.get(f"{url}/status/{job_id}") as answer:
                    return str((await answer.json())["status"])

            status, accepted = await post()
            assert status == 202
            job_id = accepted["job_id"]
            await read_until(server.stderr, "job started")
            server.send_signal(signal.SIGTERM)
            await read_until(server.stderr, "Stopping: waiting")
            status, refused = await post()
            assert (status, refused["code"]) == (503, "shutting_down")
            assert await state(job_id) in {"processing", "completed"}
        assert await asyncio.wait_for(server.wait(), 90) == 0
    async with running(make_config(tmp_path / "data", models_dir)) as service:
        assert (await service.jobs.get(job_id)).state is JobState.COMPLETED
        assert (await service.jobs.result(job_id)).path.exists()
