"""One job's way through: prepare → upscale → finish, climbing down the ladder where need be."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from upscaled.digests import Digests
from upscaled.engines.engine import Progress, UpscaleTask
from upscaled.engines.pool import EnginePool, Place, Slot
from upscaled.errors import EngineError, NoSpaceError
from upscaled.imaging import (
    CONFIRMABLE_LIMIT,
    Band,
    Imaging,
    Prepared,
    UnlikeError,
)
from upscaled.jobs.job import Attempt, Job
from upscaled.jobs.workspace import Workspace, claim
from upscaled.models.catalog import ModelCatalog
from upscaled.pictures import RawImage
from upscaled.pipeline import checkpoint
from upscaled.pipeline.bands import Finishing, task_rows
from upscaled.pipeline.retries import RetryPlan, Rung
from upscaled.pipeline.run import PipelineRun, Product, Timings

log = logging.getLogger(__name__)

_SCARCE_BYTES = 1 << 20
"""With less than this free, a failed attempt is the disk's fault."""


@dataclass(frozen=True)
class Watch:
    """What the pipeline tells of a job under way."""

    started: Callable[[Place], None]
    """A slot was given to the job; called again for every attempt."""
    progress: Callable[[int], None]
    """Percent, 0 to 99."""
    attempted: Callable[[Attempt], None]


class Pipeline:
    """Does the work of jobs; knows nothing of their states, which are the dispatcher's."""

    def __init__(
        self,
        imaging: Imaging,
        pool: EnginePool,
        models: ModelCatalog,
        workspace: Workspace,
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
        """Turn a prepared picture into a verified result, from where an earlier run left off.

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
        making = await self._begin(job, prepared)
        watch.progress(making.percent(making.written.source_rows))
        ladder: RetryPlan | None = None
        failed = False
        while True:
            waiting = time.monotonic()
            finishing: Finishing | None = None
            try:
                async with contextlib.AsyncExitStack() as bands:
                    # What follows a failure is done alone.
                    async with self._pool.slot(
                        rank,
                        ladder.rung.place if ladder else None,
                        small=making.is_small and ladder is None,
                    ) as slot:
                        timings.add("wait", waiting)
                        watch.started(slot.place)
                        if ladder is None:
                            ladder = self._ladder(slot, making)
                        elif failed:
                            await slot.engine.reset()
                        # Before the work: what is changed meanwhile took no part in it.
                        await self._note_program(making, slot)
                        finishing = await bands.enter_async_context(
                            self._finishing(making, ladder.rung)
                        )
                        await self._upscale(slot, making, ladder.rung, finishing, watch, timings)
                    await self._finish(making, finishing, timings)
            except (EngineError, UnlikeError) as error:
                assert ladder is not None  # noqa: S101 - made before anything can fail
                failed = True
                await self._climb_down(making, ladder, finishing, error, watch)
                continue
            failed = False
            if making.written.finished is not None:
                used = finishing.tile_size
                watch.attempted(
                    Attempt(ladder.rung.place.engine, ladder.rung.place.device.id, used, "ok")
                )
                if not making.careful:
                    self._remember(ladder.rung, making, used)
                return making.product(ladder.rung.place, used, timings)

    async def _begin(self, job: Job, prepared: Prepared) -> PipelineRun:
        """Return the work that is left of a job.

        Raises:
            EngineError: the network's files can't be read.
            NoSpaceError: the disk has no room for the pixels.
        """
        request = job.request
        factor = request.output_size.width / job.input_size.width
        model = self._models.get(request.model_name).files_for(factor)
        folder = self._workspace.folder(job.id)
        native = RawImage(folder / "native.rgb", prepared.source.size.times(model.native_scale))
        param_sha256 = await self._digest(model.param)
        bin_sha256 = await self._digest(model.bin)
        key = checkpoint.work_key(param_sha256, bin_sha256, model.native_scale, grey=prepared.grey)
        making = PipelineRun(job, prepared, native, model, folder, key, param_sha256, bin_sha256)
        earlier = await checkpoint.load(folder, key) if job.runs else None
        if earlier is not None:
            making.go_on_from(earlier)
            await making.save()
            log.info("job goes on", extra={"job": job.id, "rows": making.began})
        await claim(native.path, native.total_bytes, keep=making.began > 0)
        return making

    def _finishing(self, making: PipelineRun, rung: Rung) -> Finishing:
        """Return what finishes the bands of an attempt, which begins where the last one ended."""

        async def finish(band: Band) -> None:
            tile = finishing.tile_size
            confirmed = await making.doubts.settled(rung.place, tile, band)
            written = await self._imaging.finish(
                making.prepared,
                making.native,
                making.folder,
                making.options,
                replace(band, limit=CONFIRMABLE_LIMIT) if confirmed else band,
                making.written,
            )
            await making.done(written, tile)

        finishing = Finishing(
            f"finish-{making.job.id}",
            making.native,
            making.height,
            top=making.written.source_rows,
            one_band=rung.tile_size if making.careful else None,
            finish=finish,
        )
        return finishing

    async def _upscale(
        self,
        slot: Slot,
        making: PipelineRun,
        rung: Rung,
        finishing: Finishing,
        watch: Watch,
        timings: Timings,
    ) -> None:
        """Have the slot's engine do the rows that `finishing` is about."""
        began = time.monotonic()
        try:
            await finishing.beside(_infer(slot, making, rung.tile_size, finishing, watch))
        except EngineError:
            await finishing.done()  # what it got through with before counts
            raise
        timings.add("upscale", began)
        _stage_done(making.job, "upscale", began, slot.place)

    async def _finish(self, making: PipelineRun, finishing: Finishing, timings: Timings) -> None:
        """Wait for the bands that are still being finished."""
        began = time.monotonic()
        await finishing.done()
        timings.add("finish", began)
        _stage_done(making.job, "finish", began)

    async def _climb_down(
        self,
        making: PipelineRun,
        ladder: RetryPlan,
        finishing: Finishing | None,
        error: EngineError,
        watch: Watch,
    ) -> None:
        """Choose the next attempt after a failed one.

        Raises:
            EngineError: ``error``, when there is none.
            NoSpaceError: the disk was to blame.
        """
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
                "job": making.job.id,
                "device": rung.place.device.id,
                "engine": rung.place.engine,
                "tile": rung.tile_size,
                "reason": error.message,
            },
        )
        used = finishing.tile_size if finishing is not None else 0
        if (
            isinstance(error, UnlikeError)
            and finishing is not None
            and await making.doubts.can_be_settled(rung.place, used, finishing.band)
        ):
            making.careful = True
            ladder.stay(used)
        elif not error.retryable or not (
            ladder.climb_down(used) if error.tile_matters else ladder.leave()
        ):
            raise error

    async def _digest(self, path: Path) -> str:
        try:
            return await self._digests.of(path)
        except OSError as error:
            raise EngineError(
                f"{path.name} can't be read: {error.strerror}.", retryable=False
            ) from error

    async def _note_program(self, making: PipelineRun, slot: Slot) -> None:
        program = slot.engine.program
        making.program_sha256 = None if program is None else await self._digest(program)

    def _ladder(self, slot: Slot, making: PipelineRun) -> RetryPlan:
        """Return the ladder whose first rung is the slot that the job was given."""
        wanted = making.job.request.tile_size
        known = making.tile_size or self._tiles_that_worked.get(making.kind(slot.place), 0)
        # Other GPUs before the CPU, whichever the job began on.
        others = sorted(self._pool.all_places, key=lambda place: place.is_cpu)
        return RetryPlan(Rung(slot.place, wanted or known), others, fixed_tile=wanted > 0)

    def _remember(self, rung: Rung, making: PipelineRun, used: int) -> None:
        """Note the tile size that worked where the engine's own choice had failed."""
        if making.job.request.tile_size == 0 and rung.tile_size != 0 and not making.began:
            self._tiles_that_worked[making.kind(rung.place)] = used or rung.tile_size


async def _infer(
    slot: Slot, making: PipelineRun, tile_size: int, finishing: Finishing, watch: Watch
) -> None:
    """Have an engine do the rows that ``finishing`` waits for, as many at once as it can."""
    engine = slot.engine
    source, model = making.prepared.source, making.model
    most = engine.max_rows(source.size.width, model.native_scale)
    if most < 1:
        raise EngineError("The picture is too wide for this engine.", tile_matters=False)
    for top, bottom in task_rows(finishing.top, finishing.end, most, tile_size):

        def on_progress(progress: Progress, top: int = top, bottom: int = bottom) -> None:
            making.is_run_by(progress.library)
            finishing.reached(top + progress.rows, progress.tile_size)
            watch.progress(making.percent(top + progress.share * (bottom - top)))

        task = UpscaleTask(
            source=source,
            target=making.native,
            model=model,
            top=top,
            bottom=bottom,
            tile_size=tile_size,
            tta=making.job.request.tta,
            workdir=making.folder,
            shares=slot.shares,
        )
        outcome = await engine.upscale(task, on_progress)
        making.engine_seconds += outcome.seconds
        tile_size = tile_size or outcome.tile_size
        finishing.reached(bottom, outcome.tile_size)


def _stage_done(job: Job, stage: str, since: float, place: Place | None = None) -> None:
    """Log the end of a stage that began at ``since`` (of `time.monotonic`)."""
    where = {"device": place.device.id} if place else {}
    seconds = round(time.monotonic() - since, 2)
    log.info("stage done", extra={"job": job.id, "stage": stage, **where, "seconds": seconds})
