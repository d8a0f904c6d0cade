"""Jobs that wait for disk space block no other job, and continue when there is room."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from PIL import Image

from testkit.paths import DATA
from testkit.services import make_config, running, submit
from upscaled.errors import NoSpaceError
from upscaled.jobs.job import JobState
from upscaled.jobs.workspace import Workspace, claim
from upscaled.pipeline import run
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

    async def claim_room(path: Path, length: int, *, keep: bool) -> None:
        if length > state["free"]:
            raise NoSpaceError("The server's disk has no room for this job's pixels.")
        await claim(path, length, keep=keep)

    monkeypatch.setattr(run, "claim", claim_room)
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
        dispatcher = service._running.dispatcher
        async with asyncio.timeout(60):
            while len(dispatcher._set_aside) < len(waiting) or dispatcher._under_way:
                await asyncio.wait([asyncio.create_task(service.job(waiting[0].id))])
        small = await submit(service, thumbnail)
        assert (await service.wait(small.id)).state is JobState.COMPLETED
        assert [(await service.job(job.id)).state for job in waiting] == [JobState.QUEUED] * 6
        cancelled = await service.cancel(waiting.pop().id)
        assert cancelled.state is JobState.CANCELLED
        disk["free"] = 1 << 40
        for job in waiting:
            done = await service.wait(job.id)
            assert (done.state, done.error) == (JobState.COMPLETED, None)
        assert not dispatcher._set_aside
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
        dispatcher = service._running.dispatcher
        async with asyncio.timeout(60):
            while len(dispatcher._set_aside) < len(waiting) or dispatcher._under_way:
                await asyncio.wait([asyncio.create_task(service.job(waiting[0].id))])
        # Enough for one of them, and half of another.
        disk["free"] = service._running.timing.disk_bytes(waiting[0]) * 3 // 2
        for job in waiting:
            assert (await service.wait(job.id)).state is JobState.COMPLETED
    assert caplog.text.count("job waits for room on the disk") == 2, "none was told too soon"


async def test_all_say_the_same_of_the_room_that_a_job_needs(
    tmp_path: Path, models_dir: Path, thumbnail: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(
        make_config(tmp_path / "data", models_dir, features__join_identical="false")
    ) as service:
        job = await submit(service, thumbnail)
        need = service._running.timing.disk_bytes(job)
        assert (await service._running.timing.quote(job)).disk_bytes == need
        await service.wait(job.id)

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
        assert await service._running.dispatcher._disk_room._take(again)
        await service.wait(again.id)
