"""A system that is short of something delays a job and never ends it."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

import pytest

from testkit.paths import DATA
from testkit.services import make_config, running, submit
from upscaled.errors import NoMemoryError
from upscaled.jobs.job import JobState
from upscaled.service import deferred
from upscaled.workers import processes


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM, errno.EAGAIN])
async def test_a_job_waits_until_its_engine_can_be_started(
    tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(deferred, "_SYSTEM_RETRY_SECONDS", 0.01)
    start = processes.start
    refused: list[object] = []

    async def short(program: Any, **options: Any) -> processes.Child:
        if len(refused) < 3 and "upscaled.engines.builtin.worker" in program:
            refused.append(program)
            raise OSError(number, os.strerror(number))
        return await start(program, **options)

    async with running(make_config(tmp_path / "data", models_dir)) as service:
        monkeypatch.setattr(processes, "start", short)
        job = await submit(service, DATA / "coffee.jpg")
        ended = await service.jobs.wait(job.id)
    assert ended.state is JobState.COMPLETED
    assert len(refused) == 3
    assert [attempt.outcome for attempt in ended.attempts] == ["ok"]


async def test_a_model_that_memory_can_not_hold_is_refused_at_submission(
    tmp_path: Path, models_dir: Path
) -> None:
    config = make_config(tmp_path / "data", models_dir, upscaler__memory_limit_mb="300")
    async with running(config) as service:
        with pytest.raises(NoMemoryError, match=r"raise upscaler\.memory_limit_mb to \d+ or") as no:
            await submit(service, DATA / "coffee.jpg", model_name="realesrgan-x4plus", scale="4")
        enough = re.findall(r"to (\d+) or more", no.value.message)
        assert (
            await service.jobs.wait((await submit(service, DATA / "coffee.jpg")).id)
        ).error is None
    config = make_config(tmp_path / "data", models_dir, upscaler__memory_limit_mb=enough[0])
    async with running(config) as service:
        await submit(service, DATA / "coffee.jpg", model_name="realesrgan-x4plus", scale="4")
