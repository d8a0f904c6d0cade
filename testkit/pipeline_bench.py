"""`Bench`: a pipeline with engines that fail in every way, and a job to put through it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from testkit.jobs import make_job
from upscaled.engines.binary.engine import BinaryEngine
from upscaled.engines.builtin.engine import BuiltinEngine
from upscaled.engines.engine import (
    CPU,
    Device,
    DeviceKind,
    Engine,
    Progress,
    ProgressCallback,
    UpscaleOutcome,
    UpscaleTask,
)
from upscaled.engines.pool import EnginePool, Place
from upscaled.engines.traits import BUILTIN
from upscaled.errors import EngineError
from upscaled.imaging import Imaging
from upscaled.jobs.job import Attempt, Job, JobRequest
from upscaled.jobs.workspace import Workspace
from upscaled.models.catalog import ModelCatalog
from upscaled.pictures import Size
from upscaled.pipeline.pipeline import Pipeline
from upscaled.pipeline.result import RunCallbacks, RunResult

GPU = Device(0, "a GPU", DeviceKind.DISCRETE)
FAST = "realesr-animevideov3"
ODD = ("heavy JPEG", 22)
"""The picture of the gallery that animevideov3-x2 changes most (docs/verification.md)."""

Spoil = Callable[[UpscaleTask], None]


class FaultyEngine:
    """The real engine on the CPU, posing as a GPU whose tasks go wrong.

    Stands in for GPUs that run out of memory or corrupt pictures, which no test can provoke.
    """

    traits = BUILTIN
    program: Path | None = None

    def __init__(self, spoil: Spoil, device: Device = GPU) -> None:
        self.device = device
        self._spoil = spoil
        self._real = BuiltinEngine(CPU)
        self.tiles: list[int] = []
        self.rows: list[tuple[int, int]] = []
        self.most_rows: int | None = None

    unusable: str | None = None

    def when_usable(self, callback: Callable[[], None]) -> None:
        pass

    def max_rows(self, width: int, scale: int) -> int:
        return self.most_rows or self._real.max_rows(width, scale)

    async def upscale(self, task: UpscaleTask, on_progress: ProgressCallback) -> UpscaleOutcome:
        self.tiles.append(task.tile_size)
        self.rows.append((task.top, task.bottom))
        # Which rows are done is told when they are spoilt, not before.
        outcome = await self._real.upscale(
            task, lambda progress: on_progress(Progress(progress.share, 0, 0))
        )
        await asyncio.to_thread(self._spoil, task)
        return outcome

    async def reset(self) -> None:
        await self._real.reset()

    async def close(self) -> None:
        await self._real.close()


class KilledEngine(FaultyEngine):
    """The real engine on the CPU, whose process is killed in each of the first tasks."""

    def __init__(self, kills: int) -> None:
        super().__init__(right, CPU)
        self._kills = kills

    async def upscale(self, task: UpscaleTask, on_progress: ProgressCallback) -> UpscaleOutcome:
        self.tiles.append(task.tile_size)
        last = len(self.tiles) > self._kills

        def kill(progress: Progress) -> None:
            on_progress(progress)
            if not last and (pid := self._real.pid) is not None:
                os.kill(pid, signal.SIGKILL)

        return await self._real.upscale(task, kill)


class WrappingProgram(BinaryEngine):
    """The real native program, whose darkest samples come out white although it exits with 0.

    Mesa's lavapipe 22 does so by itself; newer versions do not.
    """

    async def upscale(self, task: UpscaleTask, on_progress: ProgressCallback) -> UpscaleOutcome:
        # Which rows are done is told when they are spoilt, not before.
        outcome = await super().upscale(
            task, lambda progress: on_progress(Progress(progress.share, 0, 0))
        )
        await asyncio.to_thread(self._wrap, task.target.path)
        return outcome

    @staticmethod
    def _wrap(path: Path) -> None:
        samples = np.fromfile(path, np.uint8)
        samples[samples < 30] = 255
        samples.tofile(path)


def out_of_memory(task: UpscaleTask) -> None:
    if task.tile_size == 0 or task.tile_size > 32:
        raise EngineError("vkAllocateMemory failed -2")


def broken(_: UpscaleTask) -> None:
    raise EngineError("vkQueueSubmit failed -4")


def black(task: UpscaleTask) -> None:
    task.target.path.write_bytes(bytes(task.target.total_bytes))


def right(_: UpscaleTask) -> None:
    pass


class Bench:
    """A pipeline with engines that the test chooses, and its reports about the last job."""

    def __init__(self, workspace: Workspace, imaging: Imaging, models: ModelCatalog) -> None:
        self.workspace = workspace
        self.imaging = imaging
        self.models = models
        self.attempts: list[Attempt] = []
        self.percents: list[int] = []
        self.pools: list[EnginePool] = []

    def pipeline(
        self, engines: Sequence[Engine], spare: Callable[[], Engine] | None = None
    ) -> Pipeline:
        places = [
            (Place(engine.traits.name, engine.device), 1, lambda engine=engine: engine)
            for engine in engines
        ]
        spares = [(Place("builtin", CPU), spare)] if spare else []
        self.pools.append(EnginePool(places, spares))
        return Pipeline(self.imaging, self.pools[-1], self.models, self.workspace)

    async def run(
        self,
        pipeline: Pipeline,
        picture: Path,
        tile_size: int = 0,
        model_name: str = FAST,
        result_format: str = "png",
    ) -> RunResult:
        job = await self.job(picture, tile_size, model_name, result_format)
        return await self.go_on(pipeline, job)

    async def job(
        self,
        picture: Path,
        tile_size: int = 0,
        model_name: str = FAST,
        result_format: str = "png",
    ) -> Job:
        with Image.open(picture) as image:
            size = Size(*image.size)
        job = make_job(
            input_size=size,
            request=JobRequest(
                model_name=model_name,
                scale=2,
                output_size=size.times(2),
                format=result_format,
                tile_size=tile_size,
            ),
        )
        upload = self.workspace.new_upload()
        await asyncio.to_thread(shutil.copy, picture, upload)
        await self.workspace.adopt(upload, job.id)
        return job

    async def go_on(self, pipeline: Pipeline, job: Job) -> RunResult:
        def started(_: Place) -> None:
            pass

        self.attempts, self.percents = [], []
        callbacks = RunCallbacks(started, self.percents.append, self.attempts.append)
        run = pipeline.run(job, callbacks)
        await run.prepare()
        return await run.produce()

    async def close(self) -> None:
        for pool in self.pools:
            await pool.close()


@asynccontextmanager
async def opened_bench(folder: Path, models_dir: Path) -> AsyncIterator[Bench]:
    """Provide a `Bench` for the length of the block."""
    workspace = Workspace(folder)
    await workspace.open()
    imaging = Imaging(max_pixels=10_000_000)
    models = ModelCatalog(models_dir)
    await models.rescan()
    bench = Bench(workspace, imaging, models)
    yield bench
    await bench.close()
    await imaging.close()
    workspace.close()
