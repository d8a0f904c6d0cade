import asyncio
import errno
import hashlib
import os
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from testkit.paths import DATA
from testkit.pictures import encoded
from testkit.services import make_config, running, submit, until_processing
from upscaled.errors import (
    ConfigError,
    NotAPictureError,
    QueueFullError,
    ResultGoneError,
    ShuttingDownError,
    UnknownJobError,
    UnknownModelError,
    UnusablePictureError,
    WrongStateError,
)
from upscaled.jobs.job import JobState
from upscaled.jobs.workspace import Workspace
from upscaled.pipeline.receipt import make_receipt
from upscaled.service import deferred, outcomes
from upscaled.workers import processes

COFFEE = DATA / "coffee.jpg"


def files_of(data_dir: Path) -> list[str]:
    return sorted(
        str(path.relative_to(data_dir))
        for folder in ("jobs", "incoming")
        for path in (data_dir / folder).rglob("*")
    )


async def test_a_job_goes_from_upload_to_receipt(
    tmp_path: Path, models_dir: Path, thumbnail: Path
) -> None:
    async with running(make_config(tmp_path / "data", models_dir)) as service:
        job = await submit(service, thumbnail)
        assert job.state is JobState.QUEUED
        done = await service.jobs.wait(job.id)
        assert (done.state, done.progress, done.error) == (JobState.COMPLETED, 100, None)
        result = await service.jobs.result(job.id)
        content = await asyncio.to_thread(result.path.read_bytes)
        with Image.open(result.path) as picture:
            assert (picture.format, picture.size) == ("PNG", (96, 64))
        assert result.download_name == "thumbnail_2x.png"
        assert done.file_size_bytes == len(content)
        receipt = done.receipt
        assert receipt["output"]["sha256"] == hashlib.sha256(content).hexdigest()
        assert receipt["input"]["sha256"] == hashlib.sha256(thumbnail.read_bytes()).hexdigest()
        assert receipt["engine"]["device"] == "cpu"
        assert 0 <= receipt["verification_score"] <= 1
        assert [attempt.outcome for attempt in done.attempts] == ["ok"]
        # Only the result is kept; the upload and the raw pixels are gone.
        assert files_of(tmp_path / "data") == [f"jobs/{job.id}", f"jobs/{job.id}/result.png"]
        await service.jobs.delivered(job.id)
        assert files_of(tmp_path / "data") == []
        with pytest.raises(ResultGoneError, match="downloaded already") as gone:
            await service.jobs.result(job.id)
        assert gone.value.code == "already_downloaded"


@pytest.mark.parametrize("scale", ["2", "3", "4"])
async def test_every_scale_works_with_a_model_that_only_does_four(
    tmp_path: Path, models_dir: Path, scale: str
) -> None:
    small = tmp_path / "small.png"
    with Image.open(COFFEE) as photo:
        photo.resize((24, 16)).save(small)
    async with running(make_config(tmp_path / "data", models_dir)) as service:
        job = await submit(service, small, model_name="realesrgan-x4plus-anime", scale=scale)
        assert (await service.jobs.wait(job.id)).error is None
        with Image.open((await service.jobs.result(job.id)).path) as picture:
            assert picture.size == (24 * int(scale), 16 * int(scale))


async def test_results_are_kept_where_the_settings_say_so(
    tmp_path: Path, models_dir: Path, thumbnail: Path
) -> None:
    config = make_config(tmp_path / "data", models_dir, storage__delete_after_download="false")
    async with running(config) as service:
        job = await submit(service, thumbnail)
        await service.jobs.wait(job.id)
        await service.jobs.delivered(job.id)
        assert (await service.jobs.result(job.id)).path.exists()


async def test_a_running_job_is_cancelled_within_a_second_and_leaves_nothing(
    tmp_path: Path, models_dir: Path, thumbnail: Path
) -> None:
    async with running(make_config(tmp_path / "data", models_dir)) as service:
        slow = await submit(service, COFFEE, model_name="realesrgan-x4plus", scale="4")
        await until_processing(service, slow.id)
        began = time.monotonic()
        cancelled = await service.jobs.cancel(slow.id)
        assert time.monotonic() - began < 1.0  # the contract's, not a benchmark's
        assert cancelled.state is JobState.CANCELLED
        assert files_of(tmp_path / "data") == []
        with pytest.raises(WrongStateError, match=r"ended already \(cancelled\)"):
            await service.jobs.cancel(slow.id)
        # The slot is free again.
        following = await submit(service, thumbnail)
        assert (await service.jobs.wait(following.id)).state is JobState.COMPLETED


async def test_a_queued_job_is_cancelled_at_once_and_never_runs(
    tmp_path: Path, models_dir: Path, thumbnail: Path
) -> None:
    async with running(make_config(tmp_path / "data", models_dir)) as service:
        slow = await submit(service, COFFEE, model_name="realesrgan-x4plus", scale="4")
        await until_processing(service, slow.id)
        waiting = [await submit(service, thumbnail) for _ in range(6)]
        for job in waiting:
            assert (await service.jobs.cancel(job.id)).state is JobState.CANCELLED
        await service.jobs.cancel(slow.id)
        assert [(await service.jobs.get(job.id)).started for job in waiting] == [None] * 6
        assert files_of(tmp_path / "data") == []


async def test_jobs_are_done_in_the_order_they_came(
    tmp_path: Path, models_dir: Path, thumbnail: Path
) -> None:
    async with running(make_config(tmp_path / "data", models_dir)) as service:
        jobs = [await submit(service, thumbnail) for _ in range(5)]
        done = [await service.jobs.wait(job.id) for job in jobs]
    starts = [job.started or 0.0 for job in done]
    assert starts == sorted(starts)


async def test_a_full_queue_refuses_and_says_when_to_come_back(
    tmp_path: Path, models_dir: Path, thumbnail: Path
) -> None:
    config = make_config(tmp_path / "data", models_dir, limits__max_queue_size="2")
    async with running(config) as service:
        slow = await submit(service, COFFEE, model_name="realesrgan-x4plus", scale="4")
        await until_processing(service, slow.id)
        for _ in range(2):
            await submit(service, thumbnail)
        with pytest.raises(QueueFullError, match=r"The queue is full \(2 jobs\)") as refused:
            await submit(service, thumbnail)
        assert int(refused.value.headers["Retry-After"]) >= 1
        assert (await service.reports.health())["queue_length"] == 2
        await service.jobs.cancel(slow.id)


async def test_what_is_refused_leaves_no_file(
    tmp_path: Path, models_dir: Path, thumbnail: Path
) -> None:
    text = tmp_path / "letter.png"
    text.write_text("Dear Sir or Madam")
    async with running(make_config(tmp_path / "data", models_dir)) as service:
        with pytest.raises(UnknownModelError, match="no model 'nope'; installed are: realesr-"):
            await submit(service, thumbnail, model_name="nope")
        with pytest.raises(NotAPictureError):
            await submit(service, text)
        assert files_of(tmp_path / "data") == []
        with pytest.raises(UnknownJobError):
            await service.jobs.get("1" * 19)


async def test_a_picture_that_breaks_off_fails_with_a_sentence(
    tmp_path: Path, models_dir: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(COFFEE.read_bytes()[:20_000])
    with Image.open(COFFEE) as photo:
        large = encoded(photo.resize((1300, 900)), "JPEG")
    async with running(make_config(tmp_path / "data", models_dir)) as service:
        with pytest.raises(UnusablePictureError, match="cut off"):
            await submit(service, broken)
        assert files_of(tmp_path / "data") == []
        broken.write_bytes(large[: len(large) // 2])  # too large to be decoded on arrival
        job = await submit(service, broken)
        failed = await service.jobs.wait(job.id)
        assert failed.state is JobState.FAILED
        assert failed.error is not None
        assert "decode" in failed.error
        assert files_of(tmp_path / "data") == []
        with pytest.raises(WrongStateError, match="There is no result: the job is failed"):
            await service.jobs.result(job.id)


async def test_a_job_that_takes_too_long_is_ended(tmp_path: Path, models_dir: Path) -> None:
    config = make_config(tmp_path / "data", models_dir, upscaler__job_timeout_seconds="1")
    async with running(config) as service:
        job = await submit(service, COFFEE, model_name="realesrgan-x4plus", scale="4")
        failed = await service.jobs.wait(job.id)
        assert failed.error == (
            "The job took longer than 1 seconds (upscaler.job_timeout_seconds) and was ended."
        )
        assert files_of(tmp_path / "data") == []


async def test_stopping_puts_jobs_back_and_the_next_start_finishes_them(
    tmp_path: Path, models_dir: Path, thumbnail: Path
) -> None:
    config = make_config(tmp_path / "data", models_dir, server__drain_seconds="0")
    before = set(psutil.Process().children(recursive=True))  # other fixtures have their own
    async with running(config) as service:
        slow = await submit(service, COFFEE, model_name="realesrgan-x4plus", scale="4")
        await until_processing(service, slow.id)
        waiting = await submit(service, thumbnail)
    with pytest.raises(ShuttingDownError):
        service.submissions.check()
    assert set(psutil.Process().children(recursive=True)) <= before
    async with running(config) as service:
        assert (await service.jobs.get(slow.id)).runs == 1
        assert (await service.jobs.get(waiting.id)).state is JobState.QUEUED
        await until_processing(service, slow.id)
        await service.jobs.cancel(slow.id)
        assert (await service.jobs.wait(waiting.id)).state is JobState.COMPLETED


async def test_a_result_that_nobody_fetches_expires(
    tmp_path: Path, models_dir: Path, thumbnail: Path
) -> None:
    config = make_config(tmp_path / "data", models_dir, storage__result_ttl_hours="0.001")
    async with running(config) as service:
        job = await submit(service, thumbnail)
        done = await service.jobs.wait(job.id)
        assert done.finished is not None
        await service._cleaner.clean(done.finished + 3.7)
        with pytest.raises(ResultGoneError, match="not fetched in time") as gone:
            await service.jobs.result(job.id)
        assert gone.value.code == "expired"
        assert files_of(tmp_path / "data") == []
        await service._cleaner.clean(done.finished + 168 * 3600 + 1)
        with pytest.raises(UnknownJobError):
            await service.jobs.get(job.id)


async def test_a_default_model_that_is_not_installed_stops_the_start(
    tmp_path: Path, models_dir: Path
) -> None:
    config = make_config(tmp_path / "data", models_dir, upscaler__default_model="nope")
    with pytest.raises(ConfigError, match=r"default_model is 'nope'; it must be an inst"):
        async with running(config):
            pass


async def test_a_format_that_is_switched_off_is_refused_with_those_that_are_taken(
    tmp_path: Path, models_dir: Path, thumbnail: Path
) -> None:
    config = make_config(tmp_path / "data", models_dir, features__input_formats="jpeg,webp")
    async with running(config) as service:
        with pytest.raises(NotAPictureError, match="JPEG or WebP"):
            await submit(service, thumbnail)


async def test_a_completed_job_stays_completed_when_its_folder_cannot_be_tidied(
    tmp_path: Path, models_dir: Path, thumbnail: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_result = Workspace.keep_result
    failures = [OSError(24, "Too many open files")]

    async def failing(self: Workspace, job_id: str, name: str) -> bool:
        if failures:
            raise failures.pop()
        return await keep_result(self, job_id, name)

    monkeypatch.setattr(Workspace, "keep_result", failing)
    async with running(make_config(tmp_path / "data", models_dir)) as service:
        job = await submit(service, thumbnail)
        done = await service.jobs.wait(job.id)
        assert (done.state, done.error) == (JobState.COMPLETED, None)
        assert (await service.jobs.result(job.id)).path.exists()
        assert len(files_of(tmp_path / "data")) > 2
        await service._cleaner.clean(time.time())
        assert files_of(tmp_path / "data") == [f"jobs/{job.id}", f"jobs/{job.id}/result.png"]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM, errno.EAGAIN, errno.EIO])
async def test_a_job_waits_while_the_system_is_short_of_something(
    tmp_path: Path,
    models_dir: Path,
    thumbnail: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    monkeypatch.setattr(deferred, "_SYSTEM_RETRY_SECONDS", 0.001)
    start = processes.start
    failures = 6

    async def short(*arguments: Any, **more: Any) -> processes.Child:
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError(number, os.strerror(number))
        return await start(*arguments, **more)

    real_receipt = make_receipt
    receipts = 0

    async def short_receipt(*arguments: Any) -> dict[str, Any]:
        nonlocal receipts
        receipts += 1
        if receipts < 3:
            raise OSError(number, os.strerror(number))
        return await real_receipt(*arguments)

    async with running(make_config(tmp_path / "data", models_dir)) as service:
        job = await submit(service, thumbnail)
        monkeypatch.setattr(processes, "start", short)
        monkeypatch.setattr(outcomes, "make_receipt", short_receipt)
        done = await service.jobs.wait(job.id)
        assert (done.state, done.error) == (JobState.COMPLETED, None)
        assert (failures, receipts) == (0, 3)
