"""One job's way through: prepare → upscale → finish, climbing down the ladder where need be."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from upscaled.digests import Digests
from upscaled.doubts import Doubts
from upscaled.engines.pool import EnginePool, Place, Slot
from upscaled.engines.protocol import ModelFiles, Progress, UpscaleOutcome, UpscaleTask
from upscaled.errors import OUT_OF_SPACE, EngineError, NoSpaceError
from upscaled.imaging import Finished, FinishOptions, Imaging, Prepared, UnlikeError
from upscaled.jobs import Attempt, Job
from upscaled.ladder import Ladder, Rung
from upscaled.models import ModelRegistry
from upscaled.pictures import RawImage
from upscaled.store.workspace import Workspace

log = logging.getLogger(__name__)

# Where in the percentage the stages end. Inference is nearly all of the time of nearly all jobs.
_PREPARED = 1
_UPSCALED = 95
_SCARCE_BYTES = 1 << 20
"""With less than this free, a failed attempt is the disk's fault."""


@dataclass(frozen=True)
class Watch:
    """What the pipeline tells of a job under way."""

    started: Callable[[Place], Awaitable[None]]
    """A slot was given to the job; called again for every attempt."""
    progress: Callable[[int], None]
    """Percent, 0 to 99."""
    attempted: Callable[[Attempt], None]


@dataclass
class Timings:
    """Seconds by stage."""

    stages: dict[str, float] = field(default_factory=dict)

    def add(self, stage: str, since: float) -> None:
        """Add the time from ``since`` (of `time.monotonic`) until now to a stage."""
        self.stages[stage] = self.stages.get(stage, 0.0) + time.monotonic() - since


@dataclass(frozen=True)
class Product:
    """A verified result and how it came about."""

    finished: Finished
    model: ModelFiles
    place: Place
    param_sha256: str
    bin_sha256: str
    program_sha256: str | None
    """Of the native program, where it was the engine."""
    tile_size: int
    timings: Timings


class Pipeline:
    """Does the work of jobs; knows nothing of their states, which are the dispatcher's."""

    def __init__(
        self, imaging: Imaging, pool: EnginePool, models: ModelRegistry, workspace: Workspace
    ) -> None:
        self._imaging = imaging
        self._pool = pool
        self._models = models
        self._workspace = workspace
        self._digests = Digests()
        self._tiles_that_worked: dict[tuple[Place, Path, int], int] = {}

    async def prepare(self, job: Job, timings: Timings) -> Prepared:
        """Decode the job's upload into raw files.

        Raises:
            UnusablePictureError: it does not decode.
        """
        began = time.monotonic()
        prepared = await self._imaging.prepare(
            self._workspace.upload_of(job.id), self._workspace.folder(job.id)
        )
        timings.add("prepare", began)
        _stage_done(job, "prepare", began)
        return prepared

    async def produce(
        self, job: Job, prepared: Prepared, watch: Watch, timings: Timings, *, rank: int = 0
    ) -> Product:
        """Turn a prepared picture into a verified result.

        Args:
            job: the job.
            prepared: what `prepare` made of its upload.
            watch: is told how it goes.
            timings: where the stages' seconds are added.
            rank: who gets a slot first when several wait: the smaller number.

        Raises:
            EngineError: no attempt succeeded; the last engine's own words.
            UpscaledError: what no other attempt could change.
        """
        request = job.request
        factor = request.output_size.width / job.input_size.width
        model = self._models.get(request.model_name).files_for(factor)
        native = RawImage(
            self._workspace.folder(job.id) / "native.rgb",
            prepared.source.size.times(model.native_scale),
        )
        task = UpscaleTask(
            source=prepared.source,
            target=native,
            model=model,
            top=0,
            bottom=prepared.source.size.height,
            tile_size=request.tile_size,
            tta=request.tta,
            workdir=self._workspace.folder(job.id),
        )
        watch.progress(_PREPARED)
        ladder: Ladder | None = None
        doubts = Doubts()
        while True:
            used, program_sha256 = 0, None
            waiting = time.monotonic()
            try:
                async with self._pool.slot(rank, ladder.rung.place if ladder else None) as slot:
                    timings.add("wait", waiting)
                    await watch.started(slot.place)
                    if ladder is None:
                        ladder = self._ladder(slot, task)
                    else:
                        await slot.engine.reset()
                    # Before the work: what is changed or taken away meanwhile took no part in it.
                    param_sha256 = await self._digest(model.param)
                    bin_sha256 = await self._digest(model.bin)
                    began = time.monotonic()
                    outcome = await self._upscale(slot, task, ladder.rung, watch, timings)
                    _stage_done(job, "upscale", began, slot.place)
                    used = outcome.tile_size
                    if slot.engine.program is not None:
                        program_sha256 = await self._digest(slot.engine.program)
                confirmed = await doubts.settled(slot.place, used, native)
                finished = await self._finish(job, prepared, native, timings, confirmed)
            except (EngineError, UnlikeError) as error:
                assert ladder is not None  # noqa: S101 - made before anything can fail
                rung = ladder.rung
                if await self._workspace.free_bytes() < _SCARCE_BYTES:
                    raise NoSpaceError(
                        "The server's disk was full while this picture was worked on."
                    ) from error
                watch.attempted(
                    Attempt(rung.place.engine, rung.place.device.id, rung.tile_size, error.message)
                )
                log.warning(
                    "attempt failed",
                    extra={
                        "job": job.id,
                        "device": rung.place.device.id,
                        "engine": rung.place.engine,
                        "tile": rung.tile_size,
                        "reason": error.message,
                    },
                )
                if isinstance(error, UnlikeError) and await doubts.can_be_settled(
                    rung.place, used, native
                ):
                    ladder.stay(used)
                elif not error.retryable or not (
                    ladder.climb_down(used) if error.tile_matters else ladder.leave()
                ):
                    raise
            else:
                rung = ladder.rung
                watch.attempted(Attempt(rung.place.engine, rung.place.device.id, used, "ok"))
                if not confirmed:
                    self._remember(rung, task, used)
                return Product(
                    finished=finished,
                    model=model,
                    place=rung.place,
                    param_sha256=param_sha256,
                    bin_sha256=bin_sha256,
                    program_sha256=program_sha256,
                    tile_size=used,
                    timings=timings,
                )

    async def _digest(self, path: Path) -> str:
        try:
            return await self._digests.of(path)
        except OSError as error:
            raise EngineError(
                f"{path.name} can't be read: {error.strerror}.", retryable=False
            ) from error

    def _ladder(self, slot: Slot, task: UpscaleTask) -> Ladder:
        """Return the ladder whose first rung is the slot that the job was given."""
        key = (slot.place, task.model.param, _size_class(task))
        first = Rung(slot.place, task.tile_size or self._tiles_that_worked.get(key, 0))
        # Other GPUs before the CPU, whichever the job began on.
        others = sorted(self._pool.ladder_places, key=lambda place: place.is_cpu)
        return Ladder(first, others, fixed_tile=task.tile_size > 0)

    def _remember(self, rung: Rung, task: UpscaleTask, used: int) -> None:
        """Note the tile size that worked where the engine's own choice had failed."""
        if task.tile_size == 0 and rung.tile_size != 0:
            key = (rung.place, task.model.param, _size_class(task))
            self._tiles_that_worked[key] = used or rung.tile_size

    async def _upscale(
        self, slot: Slot, task: UpscaleTask, rung: Rung, watch: Watch, timings: Timings
    ) -> UpscaleOutcome:
        began = time.monotonic()
        rows = slot.engine.max_rows(task.source.size.width, task.model.native_scale)
        if rows < 1:
            raise EngineError("The picture is too wide for this engine.", tile_matters=False)
        await asyncio.to_thread(_allocate, task.target)
        outcome = UpscaleOutcome(tile_size=0, seconds=0.0)
        for top, bottom in bands(task.source.size.height, rows):

            def on_progress(progress: Progress, top: int = top, bottom: int = bottom) -> None:
                done = (top + progress.share * (bottom - top)) / task.source.size.height
                watch.progress(_PREPARED + int(done * (_UPSCALED - _PREPARED)))

            band = UpscaleTask(
                source=task.source,
                target=task.target,
                model=task.model,
                top=top,
                bottom=bottom,
                tile_size=rung.tile_size,
                tta=task.tta,
                workdir=task.workdir,
            )
            outcome = await slot.engine.upscale(band, on_progress)
        timings.add("upscale", began)
        return outcome

    async def _finish(
        self, job: Job, prepared: Prepared, native: RawImage, timings: Timings, confirmed: bool
    ) -> Finished:
        began = time.monotonic()
        request = job.request
        finished = await self._imaging.finish(
            prepared,
            native,
            self._workspace.folder(job.id),
            FinishOptions(
                format=request.format,
                size=request.output_size,
                quality=request.quality,
                lossless=request.lossless,
                background=request.background,
                keep_metadata=request.keep_metadata,
                confirmed=confirmed,
            ),
        )
        timings.add("finish", began)
        _stage_done(job, "finish", began)
        return finished


def _stage_done(job: Job, stage: str, since: float, place: Place | None = None) -> None:
    """Log the end of a stage that began at ``since`` (of `time.monotonic`)."""
    where = {"device": place.device.id} if place else {}
    seconds = round(time.monotonic() - since, 2)
    log.info("stage done", extra={"job": job.id, "stage": stage, **where, "seconds": seconds})


def _size_class(task: UpscaleTask) -> int:
    """Return the power of two that the source's pixels reach: alike pictures, alike needs."""
    return task.source.size.pixels.bit_length()


def _allocate(image: RawImage) -> None:
    """Make the file of an image with its full length, whatever was there before."""
    with image.path.open("wb") as file:
        try:
            # Claimed now: a disk that fills up later would end the work in its middle.
            os.posix_fallocate(file.fileno(), 0, image.total_bytes)
        except OSError as error:
            if error.errno in OUT_OF_SPACE:
                raise NoSpaceError(
                    f"The server's disk has no room for the {image.total_bytes >> 20} MiB of this "
                    "job's pixels."
                ) from error
            if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:
                raise
            file.truncate(image.total_bytes)  # this file system can't claim


def bands(height: int, most: int) -> Iterator[tuple[int, int]]:
    """Yield (top, bottom) of as few bands as cover ``height`` rows, none higher than ``most``."""
    count = -(-height // most)
    for number in range(count):
        yield height * number // count, height * (number + 1) // count
