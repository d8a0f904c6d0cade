"""Results from a service in this process."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from PIL import Image

from testkit.paths import DATA
from testkit.running import FAST_MODEL, configured
from upscaled.batch.local import LocalUpscaler
from upscaled.batch.outputs import OutputError
from upscaled.batch.upscaler import Task
from upscaled.config.settings import Config

FIELDS = {"model_name": FAST_MODEL, "scale": "2", "format": "png"}


@pytest.fixture
def config(tmp_path: Path, models_dir: Path) -> Config:
    return configured(tmp_path / "settings", models_dir)


@pytest.fixture
def task(tmp_path: Path) -> Task:
    """A task whose result has no place: a folder has its name."""
    (tmp_path / "out.png").mkdir()
    with Image.open(DATA / "coffee.jpg") as photo:
        photo.resize((32, 24)).save(tmp_path / "in.png")
    return Task(tmp_path / "in.png", tmp_path / "out.png", FIELDS, "key")


async def test_a_result_that_has_no_place_is_kept_for_the_next_try(
    config: Config, task: Task, tmp_path: Path
) -> None:
    jobs = tmp_path / "work/jobs"
    for _ in range(2):  # two runs of two tries
        async with LocalUpscaler(config, tmp_path / "work") as upscaler:
            for _ in range(2):
                with pytest.raises(OutputError, match=r"out\.png: Is a directory"):
                    await upscaler.upscale(task, lambda _: None)
                assert len(list(jobs.iterdir())) == 1
    (job,) = jobs.iterdir()
    task.target.rmdir()
    async with LocalUpscaler(config, tmp_path / "work") as upscaler:
        await upscaler.upscale(task, lambda _: None)
        assert [folder.name for folder in jobs.iterdir()] == [job.name]
        await upscaler.recorded(task)
    assert task.target.is_file()
    assert list(jobs.iterdir()) == []


async def test_a_result_without_a_place_that_nobody_asks_for_again_is_dropped(
    config: Config, task: Task, tmp_path: Path
) -> None:
    async with LocalUpscaler(config, tmp_path / "work") as upscaler:
        with pytest.raises(OutputError):
            await upscaler.upscale(dataclasses.replace(task, key=""), lambda _: None)
        assert list((tmp_path / "work/jobs").iterdir()) == []
        with pytest.raises(OutputError):
            await upscaler.upscale(task, lambda _: None)
    async with LocalUpscaler(config, tmp_path / "work"):
        pass  # a run without that picture
    assert list((tmp_path / "work/jobs").iterdir()) == []
