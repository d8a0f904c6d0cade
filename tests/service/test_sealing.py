"""A server that is killed near the end of a job loses none of its work."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import sys
from pathlib import Path

import pytest

from testkit.child_processes import child_process
from testkit.paths import ROOT
from testkit.services import make_config, running, submit
from upscaled.jobs.job import JobState

_KILLED = 9

_SERVER = """
import asyncio, os, sys
from pathlib import Path
from testkit.services import make_config, running, submit
from upscaled.jobs.sqlite_store import SqliteJobStore
from upscaled.pipeline import checkpoint

data, models, picture, step = sys.argv[1:]
sync, save, put = checkpoint.files.sync, checkpoint._save, SqliteJobStore.put


def die(): os._exit(9)


def killed_save(folder, now):
    if now.written.finished and step == "before the checkpoint": die()
    save(folder, now)
    if now.written.finished and step == "before the rename": die()


def killed_sync(path):
    if path.name.startswith("result.") and step == "before the flush": die()
    sync(path)
    if (path / "result.png").exists() and step == "after the rename": die()


async def killed_put(self, job, *more, **named):
    if job.state == "completed" and step == "before the record": die()
    await put(self, job, *more, **named)
    if job.state == "completed" and step == "after the record": die()


checkpoint._save, checkpoint.files.sync, SqliteJobStore.put = killed_save, killed_sync, killed_put


async def main():
    async with running(make_config(Path(data), Path(models))) as service:
        job = await submit(service, Path(picture))
        await service.jobs.wait(job.id)

asyncio.run(main())
"""

STEPS = (
    "before the checkpoint",
    "before the rename",
    "before the flush",
    "after the rename",
    "before the record",
    "after the record",
)


@pytest.mark.parametrize("step", STEPS)
async def test_a_result_that_was_made_is_not_made_again(
    tmp_path: Path, models_dir: Path, thumbnail: Path, step: str, caplog: pytest.LogCaptureFixture
) -> None:
    data, picture = tmp_path / "data", thumbnail
    async with child_process(
        sys.executable,
        *("-c", _SERVER, str(data), str(models_dir), str(picture), step),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as server:
        assert await server.wait() == _KILLED
    caplog.set_level(logging.INFO)
    (folder,) = await asyncio.to_thread(lambda: list((data / "jobs").iterdir()))
    async with running(make_config(data, models_dir)) as service:
        job = await service.jobs.wait(folder.name)
        assert (job.state, job.error) == (JobState.COMPLETED, None)
        assert job.crashes == (step == "before the checkpoint")
        again = [r for r in caplog.records if getattr(r, "stage", None) == "upscale"]
        assert len(again) == (step == "before the checkpoint")
        content = await asyncio.to_thread((await service.jobs.result(job.id)).path.read_bytes)
        whole = await submit(service, picture)
        wanted = await service.jobs.wait(whole.id)
        assert content == await asyncio.to_thread(
            (await service.jobs.result(whole.id)).path.read_bytes
        )
    assert job.receipt["output"] == wanted.receipt["output"]
    assert job.receipt["output"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert job.receipt["engine"] == wanted.receipt["engine"]
    assert job.receipt["model"] == wanted.receipt["model"]
    assert [attempt.outcome for attempt in job.attempts] == ["ok"]
    if step not in {"before the checkpoint", "after the record"}:
        assert job.receipt["seconds"]["resumed"] > 0
    assert json.dumps(job.receipt)  # plain data
