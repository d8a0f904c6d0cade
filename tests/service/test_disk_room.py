"""Jobs that wait for disk space block no other job, and continue when there is room."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from PIL import Image

from testkit.paths import DATA
from testkit.server_process import ServerProcess
from testkit.services import dispatcher_of, make_config, running, submit
from testkit.small_disk import SmallDisk, small_disk
from upscaled import files
from upscaled.errors import NoSpaceError
from upscaled.jobs.job import JobState
from upscaled.jobs.workspace import Workspace, claim
from upscaled.pipeline import footprint, native_rows, run
from upscaled.service import disk_room

LARGE = 1 << 20
"""With at least this many bytes of native pixels, the disk of these tests is full."""


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """A disk with room for small jobs only, until ``free`` is raised."""
    state = {"free": LARGE}
    monkeypatch.setattr(disk_room, "_LOOK_SECONDS", 0.05)

    async def free_bytes(_: Workspace, _wanted: int = 0) -> int:
        return state["free"]

    async def claim_room(path: Path, length: int, *, keep: bool, room: None) -> None:
        if length > state["free"]:
            raise NoSpaceError("The server's disk has no room for this job's pixels.")
        await claim(path, length, keep=keep)

    monkeypatch.setattr(native_rows, "claim", claim_room)
    monkeypatch.setattr(run, "_SCARCE_BYTES", 0)
    monkeypatch.setattr(Workspace, "free_bytes", free_bytes)
    monkeypatch.setattr("upscaled.service.admission.DISK_RESERVE", -(1 << 40))
    return state


async def test_large_jobs_that_wait_for_the_disk_let_small_ones_pass(
    tmp_path: Path, models_dir: Path, thumbnail: Path, disk: dict[str, int],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    large = tmp_path / "large.png"
    with Image.open(DATA / "coffee.jpg") as photo:
        photo.resize((320, 320)).save(large)
    async with running(
        make_config(tmp_path / "data", models_dir, features__join_identical="false")
    ) as service:
        waiting = [await submit(service, large) for _ in range(6)]
        dispatcher = dispatcher_of(service)
        async with asyncio.timeout(60):
            while len(dispatcher._deferred) < len(waiting) or dispatcher._under_way:
                await asyncio.wait([asyncio.create_task(service.jobs.get(waiting[0].id))])
        small = await submit(service, thumbnail)
        assert (await service.jobs.wait(small.id)).state is JobState.COMPLETED
        assert [(await service.jobs.get(job.id)).state for job in waiting] == [JobState.QUEUED] * 6
        cancelled = await service.jobs.cancel(waiting.pop().id)
        assert cancelled.state is JobState.CANCELLED
        disk["free"] = 1 << 40
        for job in waiting:
            done = await service.jobs.wait(job.id)
            assert (done.state, done.error) == (JobState.COMPLETED, None)
        assert not dispatcher._deferred
    assert caplog.text.count("job waits for room on the disk") == 6


async def test_room_is_promised_to_one_job_at_a_time(
    tmp_path: Path, models_dir: Path, disk: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    large = tmp_path / "large.png"
    with Image.open(DATA / "coffee.jpg") as photo:
        photo.resize((320, 320)).save(large)
    async with running(
        make_config(tmp_path / "data", models_dir, features__join_identical="false")
    ) as service:
        waiting = [await submit(service, large) for _ in range(2)]
        dispatcher = dispatcher_of(service)
        async with asyncio.timeout(60):
            while len(dispatcher._deferred) < len(waiting) or dispatcher._under_way:
                await asyncio.wait([asyncio.create_task(service.jobs.get(waiting[0].id))])
        # Enough for one of them, and half of another.
        disk["free"] = service._running.timing.disk_bytes(waiting[0]) * 3 // 2
        for job in waiting:
            assert (await service.jobs.wait(job.id)).state is JobState.COMPLETED
    assert caplog.text.count("job waits for room on the disk") == 2, "none was told too soon"


@pytest.mark.parametrize("frees_parts", [True, False])
async def test_all_say_the_same_of_the_room_that_a_job_needs(
    tmp_path: Path,
    models_dir: Path,
    thumbnail: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    frees_parts: bool,
) -> None:
    if not frees_parts:
        monkeypatch.setattr(files, "can_free", lambda _: False)
    monkeypatch.setattr(footprint, "_NATIVE_BYTES", 1)
    monkeypatch.setattr(footprint, "_NATIVE_ROWS", 16)
    async with running(
        make_config(tmp_path / "data", models_dir, features__join_identical="false")
    ) as service:
        job = await submit(service, thumbnail)
        need = service._running.timing.disk_bytes(job)
        assert (await service._running.timing.quote(job)).disk_bytes == need
        source, result = job.input_size, job.request.output_size
        native = service.models.get(job.request.model_name).files_for(job.factor).native_scale
        rows = 16 if frees_parts else source.height
        assert need == 3 * (source.pixels + result.pixels + source.width * rows * native**2)
        await service.jobs.wait(job.id)

        async def too_little(_: Workspace, _wanted: int = 0) -> int:
            return need - 1

        monkeypatch.setattr("upscaled.service.admission.DISK_RESERVE", 0)
        monkeypatch.setattr(Workspace, "free_bytes", too_little)
        with pytest.raises(NoSpaceError):
            await submit(service, thumbnail)

        async def enough(_: Workspace, _wanted: int = 0) -> int:
            return need

        monkeypatch.setattr(Workspace, "free_bytes", enough)
        again = await submit(service, thumbnail)
        assert await dispatcher_of(service)._disk_room._take(again)
        await service.jobs.wait(again.id)


@pytest.fixture
def real_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", 900 << 10) as made:
        yield made


async def test_from_outside_large_jobs_wait_health_says_so_and_a_small_one_finishes(
    models_dir: Path, real_disk: SmallDisk, thumbnail: Path
) -> None:
    slow, quick = {"model_name": "realesrgan-x4plus"}, {"model_name": "realesr-animevideov3"}

    def large(shade: int) -> bytes:  # different ones, since equal ones share their work
        Image.new("RGB", (2000, 2000), (shade, 100, 100)).save(file := io.BytesIO(), "PNG")
        return file.getvalue()

    server = ServerProcess(real_disk.folder, models_dir, {"server.drain_seconds": 0})

    async def submitted(
        session: aiohttp.ClientSession, picture: bytes, fields: dict[str, str]
    ) -> str:
        form = aiohttp.FormData(fields)
        form.add_field("image", picture, filename="a.png")
        async with session.post(server.url + "/upscale", data=form) as answer:
            assert answer.status == 202, await answer.text()
            return str((await answer.json())["job_id"])

    async def health(session: aiohttp.ClientSession) -> dict[str, Any]:
        async with session.get(server.url + "/health") as answer:
            return dict(await answer.json())

    async def until_waiting(session: aiohttp.ClientSession, jobs: range) -> dict[str, Any]:
        async with asyncio.timeout(120):
            while True:
                told = await health(session)
                if told.get("waiting_for_disk", {"jobs": 0})["jobs"] in jobs:
                    return told
                await asyncio.sleep(0.2)  # nothing tells that a job waits for the disk

    try:
        await server.start()
        await server.wait_until_healthy()
        async with aiohttp.ClientSession() as session:
            waiting = [await submitted(session, large(shade), slow) for shade in range(6)]
        await server.stop()
        for name in server.files():  # what was decoded, so that the disk can be made smaller
            path = server.data_dir / name
            if path.is_file() and path.name != "upload":
                path.unlink()
        await asyncio.to_thread(real_disk.resize, 165 << 10)  # with 70 MB of compiled networks
        await server.start()
        await server.wait_until_healthy()
        async with aiohttp.ClientSession() as session:
            told = await until_waiting(session, range(6, 7))
            assert (told["status"], told["queue_length"]) == ("ok", 6)
            assert told["waiting_for_disk"]["reason"].startswith("6 jobs wait for room on the disk")
            small = await submitted(session, thumbnail.read_bytes(), quick)
            status = f"{server.url}/status/{small}?wait=45"
            async with session.get(status) as answer:
                assert (await answer.json())["status"] == "completed"
            assert (await health(session))["waiting_for_disk"]["jobs"] == 6
            await asyncio.to_thread(real_disk.resize, 900 << 10)
            await until_waiting(session, range(6))
            for job_id in waiting:
                async with session.post(f"{server.url}/cancel/{job_id}") as answer:
                    assert answer.status == 200
    finally:
        await server.reap()
