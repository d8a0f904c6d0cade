"""Inference: has a picture's rows done by the engine of a slot, and by idle devices like it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from upscaled.engines.engine import Progress, UpscaleTask
from upscaled.engines.pool import EnginePool, Place, Slot
from upscaled.errors import EngineError
from upscaled.pipeline.bands import BandFinisher, task_rows
from upscaled.pipeline.helping_devices import HelpingDevices, Rows


class Inference:
    """Has the rows done that a `BandFinisher` waits for.

    Args:
        pool: has the slots.
        job_id: for the log.
        whole: the task of the whole picture.
        bands: told which rows are complete.
        on_progress: called with what an engine reports, and with how many source rows are done.
        on_help: called with the place of another device that has done a band.
    """

    def __init__(
        self,
        pool: EnginePool,
        job_id: str,
        whole: UpscaleTask,
        bands: BandFinisher,
        *,
        on_progress: Callable[[Progress, float], None],
        on_help: Callable[[Place], None],
    ) -> None:
        self._pool = pool
        self._job_id = job_id
        self._whole = whole
        self._bands = bands
        self._on_progress = on_progress
        self._on_help = on_help
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
            alone: no other device may help.

        Raises:
            EngineError: the slot's engine failed, or the picture is too wide for it.
        """
        bands, whole = self._bands, self._whole
        most = slot.engine.max_rows(whole.source.size.width, whole.model.native_scale)
        if most < 1:
            raise EngineError("The picture is too wide for this engine.", tile_matters=False)
        # A native program does not say which tiles it chooses.
        alone = alone or (tile_size == 0 and slot.engine.program is not None)
        others = () if alone else self._pool.twins(slot.place)
        if others and len(bands.remaining(tile_size)) > 1:
            # Bands must end where tiles end, or the others' would not have the same bytes.
            tile_size = tile_size or await self._chosen_tile(slot)
            remaining = bands.remaining(tile_size)
            if tile_size and max(bottom - top for top, bottom in remaining) <= most:
                await self._run_with_others(slot, tile_size, remaining, others)
                return
        for rows in task_rows(bands.top, bands.end, most, tile_size):
            tile_size = await self._do(slot, rows, tile_size, bands.reached)

    async def _chosen_tile(self, slot: Slot) -> int:
        """Return the tile size that the engine chooses for the picture; 0: it does not say.

        It does one row for that, which it does again with its tile.
        """
        task = replace(self._whole, top=self._top, bottom=self._top + 1)
        outcome = await slot.engine.upscale(task, lambda _: None)
        self.seconds += outcome.seconds
        return outcome.tile_size

    async def _run_with_others(
        self, slot: Slot, tile_size: int, remaining: list[Rows], others: tuple[Place, ...]
    ) -> None:
        async def do(slot: Slot, rows: Rows) -> None:
            await self._do(slot, rows, tile_size, lambda _row, _tile: None)

        helping = HelpingDevices(
            self._pool,
            self._job_id,
            remaining,
            do=do,
            reached=lambda row: self._bands.reached(row, tile_size),
            on_help=self._on_help,
        )
        await helping.run(slot, others)

    async def _do(
        self, slot: Slot, rows: Rows, tile_size: int, reached: Callable[[int, int], None]
    ) -> int:
        """Let an engine do some rows; return the tile size."""
        top, bottom = rows

        def on_progress(progress: Progress) -> None:
            reached(top + progress.rows, progress.tile_size)
            self._done[rows] = progress.share * (bottom - top)
            self._on_progress(progress, self._top + sum(self._done.values()))

        task = replace(self._whole, top=top, bottom=bottom, tile_size=tile_size, shares=slot.shares)
        outcome = await slot.engine.upscale(task, on_progress)
        self.seconds += outcome.seconds
        self._done[rows] = bottom - top
        reached(bottom, outcome.tile_size)
        return tile_size or outcome.tile_size
