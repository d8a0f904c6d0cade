"""One job's run through the pipeline: prepare, then upscale and finish band by band."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import replace

from upscaled.engines.engine import Progress, UpscaleTask, is_small
from upscaled.engines.pool import Place, Slot
from upscaled.errors import (
    EngineError,
    NoSpaceError,
    ShortageError,
    WorkerDeathError,
)
from upscaled.imaging import (
    CONFIRMABLE_LIMIT,
    Band,
    EncodedBody,
    Prepared,
    UnlikeError,
)
from upscaled.jobs.job import FAST, Attempt, Job
from upscaled.jobs.results import result_name
from upscaled.pictures import RawImage
from upscaled.pipeline import checkpoint
from upscaled.pipeline.alternatives import Refused
from upscaled.pipeline.bands import BandFinisher
from upscaled.pipeline.checkpoint import Checkpoint
from upscaled.pipeline.confirmation import Confirmation, Next
from upscaled.pipeline.execution import Execution
from upscaled.pipeline.inference import Inference, InferenceCallbacks
from upscaled.pipeline.native_rows import NativeRows
from upscaled.pipeline.open_bands import Rows
from upscaled.pipeline.result import RunCallbacks, RunResult, finish_options
from upscaled.pipeline.retry_planner import AttemptPlan, RetryPlanner
from upscaled.pipeline.run_record import RunRecord
from upscaled.pipeline.shared import SharedParts
from upscaled.workers import deaths

log = logging.getLogger(__name__)

_PREPARED_PERCENT = 1
UPSCALED_PERCENT = 95
"""Progress at the end of each stage. Inference takes most of the time of nearly all jobs."""

_SCARCE_BYTES = 1 << 20
"""With less free disk space than this, a failed attempt is the disk's fault."""


class PipelineRun:
    """Does the work of one job, once. Call `prepare` (unless the picture is prepared), then
    `produce`.

    Args:
        shared: what all runs use.
        job: the job; its upload is in its folder.
        callbacks: told of slots, progress and attempts.
        prepared: the decoded picture, if the upload was decoded on arrival.
        rank: order in which slots are given to waiting runs: the smaller number is first.
    """

    def __init__(
        self,
        shared: SharedParts,
        job: Job,
        callbacks: RunCallbacks,
        *,
        prepared: Prepared | None = None,
        rank: int = 0,
    ) -> None:
        self._shared = shared
        self._job = job
        self._callbacks = callbacks
        self._rank = rank
        self._folder = shared.workspace.folder(job.id)
        self._options = finish_options(job.request)
        self._prepared = prepared
        self._done = RunRecord()
        self._retries: RetryPlanner | None = None
        self._bands: BandFinisher | None = None
        self._bodies: dict[Rows, EncodedBody] = {}
        """Of bands that other workers have done in this attempt, and encoded as far as they can."""
        self._failed = False
        """The last attempt failed, so the next one needs a fresh process."""
        self._one_band_at_a_time = False
        """A band was refused: finish each band before the next one begins."""

    async def prepare(self) -> None:
        """Decode the upload into raw files, unless that was done on arrival.

        Raises:
            UnusablePictureError: it does not decode.
            NoSpaceError: the disk is full.
        """
        if self._prepared is not None:
            return
        began = time.monotonic()
        workspace = self._shared.workspace
        await workspace.begin(self._job.id)
        try:
            upload = workspace.upload_of(self._job.id)
            self._prepared = await self._shared.imaging.prepare(
                upload, self._folder, expected=self._job.input_size
            )
        finally:  # only a crash of the server leaves the note
            await workspace.end(self._job.id)
        self._end_stage("prepare", began)

    async def produce(self) -> RunResult:
        """Turn the prepared picture into a verified result; continue where an earlier run ended.

        Raises:
            EngineError: no attempt succeeded; the last engine's own words.
            UpscaledError: what no other attempt could change.
        """
        await self._begin()
        while self._done.written.finished is None:
            try:
                await self._attempt()
            except EngineError as error:
                await self._plan_retry(error)
        return await self._done.seal(self._folder, self._work, self._job, self._model)

    async def _begin(self) -> None:
        """Open the run's files and load the progress of an earlier run.

        Raises:
            EngineError: the network's files can't be read.
            NoSpaceError: the disk has no room for the pixels.
        """
        assert self._prepared is not None, "prepare was not called"  # noqa: S101
        self._source = self._prepared.source
        self._model = await self._shared.identify(self._job)
        scale = self._model.files.native_scale
        self._native = RawImage(self._folder / checkpoint.NATIVE, self._source.size.times(scale))
        self._rows = NativeRows(self._native, self._source.size.height, self._options.format)
        self._confirmation = Confirmation(self._native, scale)
        self._work = checkpoint.work_key(
            self._model.param_sha256, self._model.bin_sha256, scale, grey=self._prepared.grey
        )
        earlier = await checkpoint.load(self._folder, self._work, result_name(self._job))
        if earlier is not None:
            await self._take_up(earlier)
        else:
            fast = self._job.request.precision == FAST
            method = self._shared.methods.of(self._model.files, self._source.size, fast=fast)
            self._done.execution = Execution(method=method)
        if self._done.written.finished is None:
            await self._rows.claim(self._done.written, keep=earlier is not None)
        self._report(self._done.written.source_rows)

    async def _take_up(self, earlier: Checkpoint) -> None:
        """Continue where an earlier run ended."""
        self._done.resume(earlier)
        log.info("job goes on", extra={"job": self._job.id, "rows": self._done.resumed_rows})
        if earlier.written.finished is None:
            await self._done.save(self._folder, self._work)
        elif earlier.place is not None:  # no attempt follows
            self._callbacks.started(earlier.place)
            self._report_attempt(earlier.place, earlier.tile_size, "ok")

    async def _attempt(self) -> None:
        """Upscale and finish the remaining rows, or one band if bands are done one by one.

        The slot is given back before the last bands are finished.
        """
        waiting = time.monotonic()
        self._bands = None
        self._bodies.clear()
        plan = self._retries.plan if self._retries else None
        place = plan.place if plan else self._earlier_place()
        small = plan is None and is_small(self._source.size)  # a retry has the engine to itself
        async with contextlib.AsyncExitStack() as stack:
            async with self._shared.pool.slot(self._rank, place, small=small) as slot:
                self._done.seconds.add("wait", waiting)
                plan = await self._take(slot)
                self._bands = await stack.enter_async_context(self._band_finisher(plan))
                await self._upscale(slot, self._bands, plan)
            await self._finish(self._bands)
        self._failed = False
        if self._done.written.finished is not None:
            self._report_attempt(plan.place, self._bands.tile_size, "ok")
            self._shared.verifications["passed"] += 1
            self._remember_tile_size(plan)

    def _earlier_place(self) -> Place | None:
        """Return the place to go on at: a device like the one that made the bands that are done."""
        earlier = self._done.execution.place
        return None if earlier is None else self._shared.pool.like(earlier)

    async def _take(self, slot: Slot) -> AttemptPlan:
        """Make the slot's engine ready and return the plan of the attempt."""
        self._callbacks.started(slot.place)
        if self._retries is None:
            self._retries = self._plan_retries(slot.place)
        elif self._failed:
            await slot.engine.reset()
        # Before the work: a program that replaces this one later took no part.
        program = slot.engine.program
        digest = None if program is None else await self._shared.digest(program)
        self._done.execution = replace(
            self._done.execution, place=slot.place, program_sha256=digest
        )
        return self._retries.plan

    def _plan_retries(self, first: Place) -> RetryPlanner:
        request = self._job.request
        known = self._done.tile_size or self._shared.tile_sizes.get(
            first, self._model.files, self._source.size.pixels
        )
        # Other GPUs before the CPU, wherever the job began.
        others = sorted(self._shared.pool.all_places, key=lambda place: place.is_cpu)
        plan = AttemptPlan(first, request.tile_size or known)
        return RetryPlanner(plan, others, fixed_tile=request.tile_size > 0)

    def _band_finisher(self, plan: AttemptPlan) -> BandFinisher:
        return BandFinisher(
            f"finish-{self._job.id}",
            self._native,
            self._source.size.height,
            top=self._done.written.source_rows,
            one_band=plan.tile_size if self._one_band_at_a_time else None,
            finish=self._finish_band,
            ahead=self._rows.ahead,
        )

    async def _upscale(self, slot: Slot, bands: BandFinisher, plan: AttemptPlan) -> None:
        """Let the slot's engine do the rows that ``bands`` waits for."""
        began = time.monotonic()
        try:
            await bands.during(self._infer(slot, bands, plan.tile_size))
        except EngineError:
            await bands.done()  # bands whose rows came before the failure count
            raise
        self._end_stage("upscale", began, slot.place)

    async def _infer(self, slot: Slot, bands: BandFinisher, tile_size: int) -> None:
        """Let the engine do the rows that ``bands`` waits for; after a failure without help."""

        def on_progress(progress: Progress) -> None:
            self._done.execution = self._done.execution.after(progress)

        def on_help(device: str) -> None:
            self._done.execution = self._done.execution.with_help(device)

        whole = UpscaleTask(
            source=self._source,
            target=self._native,
            model=self._model.files,
            top=0,
            bottom=self._source.size.height,
            tile_size=tile_size,
            tta=self._job.request.tta,
            workdir=self._folder,
            shares=slot.shares,
            method=self._done.execution.method,
        )
        inference = Inference(
            self._shared.pool,
            self._shared.workers,
            self._job.id,
            self._job.request.model_name,
            self._work,
            whole,
            bands,
            InferenceCallbacks(on_progress, self._report, on_help, self._bodies.__setitem__),
            self._options,
        )
        try:
            await inference.run(slot, tile_size, alone=self._failed or self._one_band_at_a_time)
        finally:
            self._done.engine_seconds += inference.seconds

    async def _finish_band(self, band: Band) -> None:
        """Verify, encode and read back a band whose rows the engine has done."""
        assert self._prepared and self._retries and self._bands  # noqa: S101 - an attempt runs
        tile_size = self._bands.tile_size
        if await self._confirmation.is_confirmed(self._retries.plan.place, band):
            band = replace(band, limit=CONFIRMABLE_LIMIT)
        body = self._bodies.get((band.top, band.bottom))
        self._done.written = await self._shared.imaging.finish(
            self._prepared,
            self._native,
            self._folder,
            self._options,
            band,
            self._done.written,
            body,
        )
        if body is not None:
            await asyncio.to_thread(body.path.unlink, missing_ok=True)
        self._done.tile_size = tile_size
        self._retries.progressed()
        if self._done.written.finished is None:
            saved = await self._done.save(self._folder, self._work)
            self._shared.on_checkpoint(self._job.id, saved)
            await self._rows.encoded(self._done.written)

    async def _finish(self, bands: BandFinisher) -> None:
        """Wait for the bands that are still being finished."""
        began = time.monotonic()
        await bands.done()
        self._end_stage("finish", began)

    async def _plan_retry(self, error: EngineError) -> None:
        """Plan the attempt after a failed one.

        Raises:
            EngineError: ``error``, if there is none.
            NoSpaceError: the disk was to blame.
        """
        if self._retries is None or isinstance(error, ShortageError):
            raise error  # no other attempt can get what the system lacks
        if await self._shared.workspace.free_bytes() < _SCARCE_BYTES:
            raise NoSpaceError(
                "The server's disk was full while this picture was worked on."
            ) from error
        self._failed = True
        plan, bands = self._retries.plan, self._bands
        self._report_attempt(plan.place, plan.tile_size, error.message)
        log.warning(
            "attempt failed",
            extra={
                "job": self._job.id,
                "device": plan.place.device.id,
                "engine": plan.place.engine,
                "tile": plan.tile_size,
                "reason": error.message,
            },
        )
        used = bands.tile_size if bands else 0
        if isinstance(error, WorkerDeathError) and error.retryable:
            if not self._retries.after_death(used):
                raise error
            await asyncio.sleep(deaths.PAUSE_SECONDS)
            return
        step = Next.OTHER_TILE if error.tile_matters else Next.OTHER_DEVICE
        if not error.retryable:
            step = Next.NOTHING
        elif isinstance(error, UnlikeError) and bands is not None:
            self._shared.verifications["refused"] += 1
            step = await self._confirmation.refused(plan.place, used, bands.band)
            if step is Next.NOTHING:
                name = self._job.request.model_name
                refused = Refused(
                    self._source, self._native, bands.band, name, plan.place, self._folder
                )
                raise await self._shared.alternatives.refusal(
                    error, refused, self._job.factor, self._rank
                ) from error
        if step is Next.SAME_AGAIN:
            self._one_band_at_a_time = True
            self._retries.repeat(used)
        elif step is Next.NOTHING or not (
            self._retries.smaller_tile_or_next_place(used)
            if step is Next.OTHER_TILE
            else self._retries.next_place()
        ):
            raise error

    def _remember_tile_size(self, plan: AttemptPlan) -> None:
        """Remember a tile size that worked after the engine's own choice had failed."""
        assert self._bands is not None  # noqa: S101 - an attempt has succeeded
        chosen_by_retries = plan.tile_size != 0 and self._job.request.tile_size == 0
        if chosen_by_retries and not self._one_band_at_a_time and not self._done.resumed_rows:
            self._shared.tile_sizes.remember(
                plan.place,
                self._model.files,
                self._source.size.pixels,
                self._bands.tile_size or plan.tile_size,
            )

    def _report(self, rows: float) -> None:
        """Report the progress of a job with this many finished source rows."""
        span = UPSCALED_PERCENT - _PREPARED_PERCENT
        self._callbacks.progress(_PREPARED_PERCENT + int(rows / self._source.size.height * span))

    def _report_attempt(self, place: Place, tile_size: int, outcome: str) -> None:
        self._callbacks.attempted(Attempt(place.engine, place.device.id, tile_size, outcome))

    def _end_stage(self, stage: str, began: float, place: Place | None = None) -> None:
        """Add the time since ``began`` (of `time.monotonic`) to a stage and log it."""
        seconds = round(self._done.seconds.add(stage, began), 2)
        where = {"device": place.device.id} if place else {}
        log.info(
            "stage done", extra={"job": self._job.id, "stage": stage, **where, "seconds": seconds}
        )
