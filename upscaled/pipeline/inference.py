"""Inference: has a picture's rows done by the engine of a slot, and by others that are idle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from upscaled.engines.engine import Progress, UpscaleTask
from upscaled.engines.pool import EnginePool, Place, Slot
from upscaled.errors import EngineError
from upscaled.imaging import EncodedBody, FinishOptions
from upscaled.pipeline.bands import BandFinisher, task_rows
from upscaled.pipeline.helping_devices import HelpingDevice
from upscaled.pipeline.open_bands import (
    Helper,
    OpenBands,
    OtherWorkers,
    Rows,
    SharedPicture,
)

_FEWEST = 3
"""Bands that a picture must have left before another worker fetches and decodes it too."""
ANOTHER_WORKER = "another worker"
"""What a receipt calls a device of another machine."""


@dataclass(frozen=True)
class InferenceCallbacks:
    """Whom an inference tells of its progress."""

    progress: Callable[[Progress], None]
    """Called with what an engine reports."""
    rows: Callable[[float], None]
    """Called with how many source rows are done."""
    help: Callable[[str], None]
    """Called with the id of another device that has done a band, or `ANOTHER_WORKER`."""
    body: Callable[[Rows, EncodedBody], None]
    """Called with the rows of a band that another worker has done, if it has encoded it too."""


class Inference:
    """Has the rows done that a `BandFinisher` waits for.

    Args:
        pool: has the slots.
        workers: other machines.
        job_id: the job.
        model_name: the model of ``whole``.
        work: see `SharedPicture`.
        whole: the task of the whole picture.
        bands: told which rows are complete.
        callbacks: told of the progress.
        options: how the result is written.
    """

    def __init__(
        self,
        pool: EnginePool,
        workers: OtherWorkers,
        job_id: str,
        model_name: str,
        work: str,
        whole: UpscaleTask,
        bands: BandFinisher,
        callbacks: InferenceCallbacks,
        options: FinishOptions,
    ) -> None:
        self._pool = pool
        self._workers = workers
        self._job_id = job_id
        self._model_name = model_name
        self._work = work
        self._whole = whole
        self._bands = bands
        self._tell = callbacks
        self._options = options
        self._top = bands.top
        self._done: dict[Rows, float] = {}
        """How many rows of each task are done."""
        self.seconds = 0.0
        """Engine time."""

    async def run(self, slot: Slot, tile_size: int, *, alone: bool) -> None:
        """Do all rows.

        Args:
            slot: whose engine does them.
            tile_size: 0: the engine's choice.
            alone: nobody may help.

        Raises:
            EngineError: the slot's engine failed, or the picture is too wide for it.
        """
        bands, whole = self._bands, self._whole
        most = slot.engine.max_rows(whole.source.size.width, whole.model.native_scale)
        if most < 1:
            raise EngineError("The picture is too wide for this engine.", tile_matters=False)
        # A native program does not say which tiles it chooses.
        alone = alone or (tile_size == 0 and slot.engine.program is not None)
        count = len(bands.remaining(tile_size))
        devices = () if alone or count < 2 else self._pool.twins(slot.place)
        workers = not alone and count >= _FEWEST and self._can_workers_help(slot.place)
        if devices or workers:
            # Bands must end where tiles end, or the others' would not have the same bytes.
            tile_size = tile_size or await self._chosen_tile(slot)
            remaining = bands.remaining(tile_size)
            if tile_size and max(bottom - top for top, bottom in remaining) <= most:
                helpers = self._helpers(slot, tile_size, devices, workers=workers)
                await self._run_with(helpers, slot, tile_size, remaining)
                return
        if bands.ahead < bands.end - bands.top:  # tasks of half of that keep the engine busy
            if most > bands.ahead // 2 and tile_size == 0:
                tile_size = await self._chosen_tile(slot)
            most = min(most, max(bands.ahead // 2, tile_size))
        for rows in task_rows(bands.top, bands.end, most, tile_size):
            await bands.room(*rows)
            tile_size = await self._do(slot, rows, tile_size, bands.reached)

    def _can_workers_help(self, place: Place) -> bool:
        return self._workers.can_help(self._job_id, self._model_name, place)

    async def _chosen_tile(self, slot: Slot) -> int:
        """Return the tile size that the engine chooses for the picture; 0: it does not say.

        It does one row for that, which it does again with its tile.
        """
        task = replace(self._whole, top=self._top, bottom=self._top + 1)
        outcome = await slot.engine.upscale(task, lambda _: None)
        self.seconds += outcome.seconds
        return outcome.tile_size

    def _helpers(
        self, slot: Slot, tile_size: int, devices: tuple[Place, ...], *, workers: bool
    ) -> dict[str, Helper]:
        """Return those who may help, by the names of their tasks."""

        async def do(slot: Slot, rows: Rows) -> None:
            await self._do(slot, rows, tile_size, lambda _row, _tile: None)

        def on_done(rows: Rows, seconds: float, body: EncodedBody | None) -> None:
            self.seconds += seconds
            if body is not None:
                self._tell.body(rows, body)
            self._tell.help(ANOTHER_WORKER)
            self._note(rows, rows[1] - rows[0])

        found: dict[str, Helper] = {}
        for place in devices:
            device = place.device.id
            found[f"help-{self._job_id}-{device}"] = HelpingDevice(
                self._pool, place, self._job_id,
                do=do, on_help=lambda device=device: self._tell.help(device),  # type: ignore[misc]
            )  # fmt: skip
        if workers:
            picture = SharedPicture(
                self._job_id, self._model_name, self._work,
                replace(self._whole, tile_size=tile_size), self._options, slot.place, on_done,
            )  # fmt: skip
            found[f"help-{self._job_id}-workers"] = self._workers.helper(picture)
        return found

    async def _run_with(
        self, helpers: dict[str, Helper], slot: Slot, tile_size: int, remaining: list[Rows]
    ) -> None:
        async def do(rows: Rows) -> None:
            await self._do(slot, rows, tile_size, lambda _row, _tile: None)

        bands = OpenBands(
            remaining, lambda row: self._bands.reached(row, tile_size), self._bands.has_room
        )
        self._bands.on_finished = bands.look
        await bands.do_all(do, helpers)

    async def _do(
        self, slot: Slot, rows: Rows, tile_size: int, reached: Callable[[int, int], None]
    ) -> int:
        """Let an engine do some rows; return the tile size."""
        top, bottom = rows

        def on_progress(progress: Progress) -> None:
            reached(top + progress.rows, progress.tile_size)
            self._tell.progress(progress)
            self._note(rows, progress.share * (bottom - top))

        task = replace(self._whole, top=top, bottom=bottom, tile_size=tile_size, shares=slot.shares)
        outcome = await slot.engine.upscale(task, on_progress)
        self.seconds += outcome.seconds
        self._done[rows] = bottom - top
        reached(bottom, outcome.tile_size)
        return tile_size or outcome.tile_size

    def _note(self, rows: Rows, done: float) -> None:
        """Record and tell how much of some rows is done."""
        self._done[rows] = done
        self._tell.rows(self._top + sum(self._done.values()))
