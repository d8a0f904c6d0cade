"""Simulates a power cut at every write of a service, and checks the next start.

The service is the real one, except that pictures are decoded and written in this process, so that
its writes are seen, and that the engine resamples instead of running a network.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, cast
from unittest import mock

import numpy as np
from PIL import Image

from testkit.disk_model import CrashPoint, Recorder, Tree, write_tree
from testkit.services import make_config
from upscaled import serial
from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.engine import CPU, Progress, ProgressCallback, UpscaleOutcome, UpscaleTask
from upscaled.engines.pool import EnginePool, Place
from upscaled.engines.selection import EngineChoice
from upscaled.engines.traits import BUILTIN
from upscaled.errors import EngineError, UpscaledError
from upscaled.imaging import worker_pool
from upscaled.imaging.protocol import AnyRequest
from upscaled.imaging.sandbox.sandbox import Confinement
from upscaled.imaging.worker import RequestHandler
from upscaled.jobs.job import Job, JobState
from upscaled.pipeline import bands
from upscaled.service import processing
from upscaled.service.service import Service
from upscaled.workers.errors import WorkerRefusedError
from upscaled.workers.server import RequestRefusedError

_SIZE = (24, 160)
_ROWS = 32
"""Rows of a band: five bands, four checkpoints."""
_HOPELESS_SEED = 20
"""Of the picture that the engine refuses, whose job fails."""
_DATABASE = "jobs.sqlite3"
_SECONDS = 60.0


class HereWorker:
    """Answers requests to the imaging process in this one, without a sandbox."""

    def __init__(self, *_: object, **__: object) -> None:
        self._handler = RequestHandler(("png",), 10_000_000, 4096, 1)

    async def request(self, message: dict[str, Any], *, timeout: float) -> dict[str, Any]:
        """Answer ``message``; ``timeout`` plays no part."""
        del timeout
        return await asyncio.to_thread(self._answer, message)

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        request = serial.convert(message, cast("type[Any]", AnyRequest))
        try:
            with self._handler._errors_as_refusals():
                reply = self._handler._answer(request, Confinement((), ()))
        except RequestRefusedError as error:
            raise WorkerRefusedError(error.kind, error.message) from error
        return cast("dict[str, Any]", serial.plain(reply))

    async def close(self) -> None:
        """Nothing to end."""


class ResamplingEngine:
    """Enlarges by repeating pixels, which passes verification."""

    traits = BUILTIN
    device = CPU
    program = None
    unusable: str | None = None

    def when_usable(self, callback: Callable[[], None]) -> None:
        """It always is."""

    def max_rows(self, width: int, scale: int) -> int:
        """Return the rows of a band."""
        del width, scale
        return _ROWS

    async def upscale(self, task: UpscaleTask, on_progress: ProgressCallback) -> UpscaleOutcome:
        """Do ``task``."""
        await asyncio.to_thread(self._write, task)
        on_progress(Progress(1.0, task.bottom - task.top, 32))
        return UpscaleOutcome(32, 0.01)

    def _write(self, task: UpscaleTask) -> None:
        size, scale = task.source.size, task.model.native_scale
        rows = np.fromfile(task.source.path, np.uint8).reshape(size.height, size.width, 3)
        if rows[0, 0, 0] == _HOPELESS_SEED:
            raise EngineError("This picture always fails.", retryable=False)
        band = rows[task.top : task.bottom].repeat(scale, 0).repeat(scale, 1)
        with task.target.path.open("r+b") as file:
            file.seek(task.top * scale * task.target.row_bytes)
            file.write(band.tobytes())

    async def reset(self) -> None:
        """Nothing to renew."""

    async def close(self) -> None:
        """Nothing to end."""


class _Connection(sqlite3.Connection):
    """Tells a recorder of each commit, before anybody else is told."""

    recorder: Recorder
    folder: Path

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        """Do it; see the class."""
        cursor = super().execute(sql, *arguments)
        if sql == "COMMIT" and self.recorder is not None:
            files = {
                path.name: path.read_bytes()
                for path in self.folder.glob(f"{_DATABASE}*")
                if not path.name.endswith("-shm")
            }
            self.recorder.commit(files)
        return cursor


async def _choose(_: object) -> EngineChoice:
    return EngineChoice(BUILTIN, (CPU,), None, "", library=CpuLibrary.NCNN)


@contextmanager
def _in_process() -> Iterator[None]:
    pool = [(Place("builtin", CPU), 1, ResamplingEngine)]
    with ExitStack() as stack:
        for target, name, value in (
            (worker_pool, "WorkerClient", HereWorker),
            (bands, "_BAND_BYTES", 1),
            (processing, "choose", _choose),
            (processing, "make_pool", lambda *_: EnginePool(pool, [])),
        ):
            stack.enter_context(mock.patch.object(target, name, value))
        yield


@asynccontextmanager
async def _running(data: Path, models: Path) -> AsyncIterator[Service]:
    config = make_config(data, models, server__drain_seconds="0", storage__result_cache_mb="10")
    service = Service(config, models_cache=data.parent.parent / "models.json")
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


def _picture(seed: int) -> bytes:
    steps = np.linspace(0, 200, _SIZE[1])[:, None, None] + np.linspace(0, 40, _SIZE[0])[:, None]
    content = BytesIO()
    Image.fromarray((steps + np.array([seed, 5, 9])).astype(np.uint8)).save(content, "PNG")
    return content.getvalue()


def _right(seed: int) -> bytes:
    with Image.open(BytesIO(_picture(seed))) as picture:
        return np.asarray(picture).repeat(2, 0).repeat(2, 1).tobytes()


async def _submit(service: Service, content: bytes, recorder: Recorder) -> Job:
    upload = service.submissions.reserve_upload()
    await asyncio.to_thread(upload.write_bytes, content)
    fields = {"model_name": "realesr-animevideov3", "scale": "2", "format": "png"}
    job = await service.submissions.submit(fields, upload, "a.png")
    recorder.promise("accepted", job.id)
    return job


async def _play(data: Path, models: Path, recorder: Recorder) -> dict[str, int]:
    """Submit, join, complete, download, cancel, fail, and answer from the cache.

    Returns:
        The seeds of good pictures by job.
    """
    seeds: dict[str, int] = {}

    async def send(service: Service, seed: int) -> Job:
        job = await _submit(service, _picture(seed), recorder)
        if seed != _HOPELESS_SEED:
            seeds[job.id] = seed
        return job

    async with _running(data, models) as service:
        with _engine_held() as go_on:
            first, _, _ = [await send(service, seed) for seed in (1, 1, 2)]
            unwanted, _ = [await send(service, 3) for _ in range(2)]
            assert service.jobs_joined == 2
            go_on.set()
        recorder.promise("cancelling", unwanted.id)
        try:
            await service.jobs.cancel(unwanted.id)
            recorder.promise("cancelled", unwanted.id)
        except UpscaledError:  # it was quicker
            recorder.promise("completed", unwanted.id)
        broken = await send(service, _HOPELESS_SEED)
        for job_id in [job_id for job_id in seeds if job_id != unwanted.id]:
            job = await service.jobs.wait(job_id)
            assert job.state is JobState.COMPLETED, job.error
            recorder.promise("completed", job_id)
        recorder.promise("delivering", first.id)
        await service.jobs.delivered(first.id)
        recorder.promise("delivered", first.id)
        cached = await send(service, 1)
        assert cached.state is JobState.COMPLETED
        recorder.promise("completed", cached.id)
        assert (await service.jobs.wait(broken.id)).state is JobState.FAILED
        recorder.promise("failed", broken.id)
        await send(service, 4)
    return seeds


@contextmanager
def _engine_held() -> Iterator[asyncio.Event]:
    """Let the engine begin nothing until the event is set."""
    go_on, upscale = asyncio.Event(), ResamplingEngine.upscale

    async def held(engine: ResamplingEngine, *arguments: Any) -> UpscaleOutcome:
        await go_on.wait()
        return await upscale(engine, *arguments)

    with mock.patch.object(ResamplingEngine, "upscale", held):
        yield go_on


@dataclass
class Tally:
    """What a replay found."""

    operations: int = 0
    states: int = 0
    jobs: int = 0
    resumable: int = 0
    """States in which a checkpoint is there, of all that can be tried."""
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.operations} crash points, {self.states} states of the disk, "
            f"{self.jobs} accepted jobs looked for, lost or ended wrong: {len(self.problems)}"
        )


async def replay(folder: Path, models: Path, *, thorough: bool, most: int | None = None) -> Tally:
    """Record a service's life, then start it on everything that a power cut may leave.

    Args:
        folder: an empty folder.
        models: the official models.
        thorough: every combination of few unsynced changes, not only all or none.
        most: how many states to try, spread over the service's life; None: all.
    """
    root = folder / "disk"
    root.mkdir()
    recorder = Recorder(root, _DATABASE, thorough=thorough)
    connect = sqlite3.connect

    def recording_connect(*arguments: Any, **more: Any) -> sqlite3.Connection:
        return connect(*arguments, factory=_Connection, **more)

    _Connection.recorder, _Connection.folder = recorder, root / "data"
    connecting = mock.patch.object(sqlite3, "connect", recording_connect)
    with _in_process(), recorder.recording(), connecting:
        seeds = await _play(root / "data", models, recorder)
    tally = Tally(operations=len(recorder.points))
    cases = list(_cases(recorder.points))
    tally.resumable = sum(any("checkpoint" in name for name in tree) for _, tree in cases)
    step = 1 if most is None else max(1, -(-len(cases) // most))
    with _in_process():
        for point, tree in cases[::step]:
            tally.states += 1
            problems = await _start_on(point, tree, seeds, folder, models, tally)
            tally.problems += [f"after {point.operation}: {problem}" for problem in problems]
    return tally


def _cases(points: list[CrashPoint]) -> Iterator[tuple[CrashPoint, Tree]]:
    """Yield each state of the disk once for all that had been promised by then."""
    known = set()
    for point in points:
        for tree in point.trees:
            key = (
                hash(tuple(sorted(tree.items()))),
                hash(tuple(sorted(point.records.items()))),
                point.promises,
            )
            if key not in known:
                known.add(key)
                yield point, tree


async def _start_on(
    point: CrashPoint, tree: Tree, seeds: dict[str, int], folder: Path, models: Path, tally: Tally
) -> list[str]:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        root = Path(name)
        await asyncio.to_thread(write_tree, tree, root)
        data = root / "data"
        for file, content in point.records.items():
            if data.is_dir():
                await asyncio.to_thread((data / file).write_bytes, content)
        try:
            async with asyncio.timeout(_SECONDS), _running(data, models) as service:
                problems = []
                for job_id in [job for what, job in point.promises if what == "accepted"]:
                    tally.jobs += 1
                    told = {what for what, job in point.promises if job == job_id}
                    problem = await _problem(service, job_id, told, seeds.get(job_id))
                    problems += [f"job told {sorted(told)}: {problem}"] if problem else []
                return problems
        except TimeoutError:
            return ["not all jobs ended"]
        except Exception as error:
            return [f"the service does not start: {error!r}"]


async def _problem(service: Service, job_id: str, told: set[str], seed: int | None) -> str | None:
    """Return what is wrong with an accepted job; None if nothing is."""
    try:
        job = await service.jobs.wait(job_id)
    except UpscaledError as error:
        return f"lost: {error.message}"
    if seed is None:
        return None if job.state is JobState.FAILED else f"{job.state} though broken"
    if "cancelled" in told or ("cancelling" in told and job.state is JobState.CANCELLED):
        return None if job.state is JobState.CANCELLED else f"{job.state} after its cancellation"
    if job.state is not JobState.COMPLETED:
        return f"{job.state}: {job.error}"
    if job.result_gone == "downloaded" and "delivering" in told:
        return None
    try:
        result = await service.jobs.result(job_id)
        content = await asyncio.to_thread(result.path.read_bytes)
        with Image.open(BytesIO(content)) as picture:
            right = np.asarray(picture).tobytes() == _right(seed)
    except (UpscaledError, OSError) as error:
        return f"its result: {error}"
    return None if right else "its result is another picture"
