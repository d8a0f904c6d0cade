"""Bands: finished rows are verified and encoded, band by band, while the engine continues."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any

from upscaled.imaging import Band
from upscaled.pictures import RawImage

_BAND_BYTES = 24 << 20
"""Bytes of a band in the native picture: smaller ones are not worth a process, larger ones delay
the result."""
_LEAST_ROWS = 32
"""A lower band shows too little to be compared with its source."""
_UNKNOWN_TILE = 64


def task_rows(top: int, bottom: int, most: int, multiple: int) -> Iterator[tuple[int, int]]:
    """Yield (top, bottom) of as few ranges as cover the rows, none with more than ``most`` rows.

    If possible, their heights are multiples of ``multiple``, the tile side, so that the tiles are
    the same as for the whole picture. The heights are about equal.
    """
    count = -(-(bottom - top) // most)
    step = -(-(bottom - top) // count)
    if multiple and most >= multiple:
        step = min(-(-step // multiple), most // multiple) * multiple
    for start in range(top, bottom, step):
        yield start, min(start + step, bottom)


def band_end(top: int, height: int, tile: int, native_row_bytes: int) -> int:
    """Return where the band that begins at row ``top`` ends.

    Args:
        top: a row of the source.
        height: of the source.
        tile: the tile side, which the band's height is a multiple of; 0: unknown.
        native_row_bytes: bytes in the native picture for one row of the source.
    """
    unit = tile or _UNKNOWN_TILE
    rows = -(-_BAND_BYTES // (native_row_bytes * unit)) * unit
    return height if top + rows + _LEAST_ROWS > height else top + rows


class BandFinisher:
    """Finishes bands as the engine completes their rows. A context manager.

    Args:
        name: name of the asyncio task.
        native: the engine's output.
        source_height: rows of the source.
        top: the first row that is not finished yet.
        one_band: do only the next band, with tiles of this size; None: all rows.
        finish: finishes one band.
        ahead: how many rows of the source the engine may do before they are finished; None: all.
    """

    def __init__(
        self,
        name: str,
        native: RawImage,
        source_height: int,
        *,
        top: int,
        one_band: int | None,
        finish: Callable[[Band], Awaitable[None]],
        ahead: int | None = None,
    ) -> None:
        self.ahead = source_height if ahead is None else ahead
        self._height = source_height
        self._row_bytes = native.total_bytes // source_height
        self._finish = finish
        self.top = top
        """The first row that is not finished."""
        self.tile_size = one_band or 0
        """The engine's tile size; 0 while it is unknown."""
        self.end = source_height
        """The row after the last one that the engine must do."""
        if one_band is not None:
            self.end = self.band.bottom
        self._reached = top
        self._ended = False
        self._news = asyncio.Event()
        self._finished = asyncio.Event()
        self.on_finished: Callable[[], None] | None = None
        """Called when a band is finished."""
        self._task = asyncio.create_task(self._run(), name=name)

    def reached(self, row: int, tile_size: int) -> None:
        """Record that the engine has completed all rows before ``row``."""
        self.tile_size = tile_size or self.tile_size
        if row > self._reached:
            self._reached = row
            self._news.set()

    @property
    def band(self) -> Band:
        """The band that is being finished, or waited for."""
        bottom = band_end(self.top, self._height, self.tile_size, self._row_bytes)
        return Band(self.top, min(bottom, self.end))

    def remaining(self, tile_size: int) -> list[tuple[int, int]]:
        """Return the rows of all bands that are not finished, with tiles of this size."""
        found, top = [], self.top
        while top < self.end:
            bottom = band_end(top, self._height, tile_size, self._row_bytes)
            found.append((top, min(bottom, self.end)))
            top = found[-1][1]
        return found

    def has_room(self, top: int, bottom: int) -> bool:
        """Tell whether the engine may do these rows before more are finished."""
        return bottom - self.top <= self.ahead or top <= self.top

    async def room(self, top: int, bottom: int) -> None:
        """Wait until the engine may do these rows; all rows above them are done."""
        while not self.has_room(top, bottom) and self._reached >= self.band.bottom:
            self._finished.clear()
            await self._finished.wait()

    async def during(self, inference: Coroutine[Any, Any, None]) -> None:
        """Run ``inference``, which calls `reached`, and finish bands at the same time.

        Raises:
            Exception: the inference's, after its completed bands are finished; or a band's, after
                the inference was cancelled.
        """
        engine = asyncio.create_task(inference, name=f"{self._task.get_name()}-inference")
        try:
            await asyncio.wait({engine, self._task}, return_when=asyncio.FIRST_COMPLETED)
            if self._task.done() and not engine.done() and self._task.exception() is not None:
                return  # `done` reports it to the caller
            await engine
        finally:
            if not engine.done():
                engine.cancel()
                await asyncio.wait({engine})
            self._ended = True
            self._news.set()

    async def done(self) -> None:
        """Wait until all bands that the engine completed are finished.

        Raises:
            Exception: what a band raised.
        """
        await self._task

    async def _run(self) -> None:
        while self.top < self.end:
            while self._reached < self.band.bottom and not self._ended:
                self._news.clear()
                await self._news.wait()
            band = self.band  # the end may have moved when the tile size became known
            if self._reached < band.bottom:
                return
            await self._finish(band)
            self.top = band.bottom
            self._finished.set()
            if self.on_finished is not None:
                self.on_finished()

    async def __aenter__(self) -> BandFinisher:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})
        if not self._task.cancelled():
            self._task.exception()  # the caller has it, or a more serious error happened
