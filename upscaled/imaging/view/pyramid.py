"""Cuts a picture into the tiles of all levels, in one pass from top to bottom.

Each level holds at most `TILE` rows. When it has them, they are cut, and halved for the next level.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from upscaled import files
from upscaled.imaging.encode.png import small_png
from upscaled.imaging.raw import Pixels
from upscaled.imaging.view.levels import TILE, Level, levels_of, tile_count
from upscaled.imaging.view.rows import Rows
from upscaled.imaging.view.tile_file import TileFileWriter
from upscaled.imaging.view.webp_tile import webp_tile

_AHEAD = 4
"""Tiles for each thread that wait to be encoded."""


def write_pyramid(rows: Rows, path: Path, *, threads: int) -> None:
    """Write the tiles of a picture to ``path``.

    Raises:
        UnusablePictureError: the picture is damaged.
        OSError: the file can't be written.
    """
    with (
        open(path, "xb", 1 << 20, opener=files.no_follow) as file,
        ThreadPoolExecutor(threads) as pool,
    ):
        writer = TileFileWriter(file, tile_count(rows.size))
        encoding: deque[tuple[int, Future[bytes]]] = deque()

        def add(number: int, tile: Pixels, *, full_size: bool) -> None:
            encode = small_png if full_size else webp_tile
            encoding.append((number, pool.submit(encode, tile)))
            if len(encoding) > threads * _AHEAD:
                first, content = encoding.popleft()
                writer.add(first, content.result())

        first = None
        for level in reversed(levels_of(rows.size)):
            first = _LevelCutter(level, first, add)
        assert first is not None  # noqa: S101 - there is a level 0
        for strip in rows.strips(TILE):
            first.take(strip)
        first.end()
        for number, content in encoding:
            writer.add(number, content.result())
        writer.end()


class _LevelCutter:
    """Cuts the rows of one level, and passes them on to the next one."""

    def __init__(
        self, level: Level, smaller: _LevelCutter | None, add: Callable[..., None]
    ) -> None:
        self._level = level
        self._smaller = smaller
        self._add = add
        self._waiting: list[Pixels] = []
        self._count = 0
        self._row = 0

    def take(self, rows: Pixels) -> None:
        """Take the next rows; at most as many as a tile has."""
        self._waiting.append(rows)
        self._count += rows.shape[0]
        if self._count >= TILE:
            joined = np.concatenate(self._waiting) if len(self._waiting) > 1 else rows
            self._waiting = [joined[TILE:]] if self._count > TILE else []
            self._count -= TILE
            self._cut(joined[:TILE])

    def end(self) -> None:
        """Cut what is left; nothing more comes."""
        if self._count:
            self._cut(np.concatenate(self._waiting))
        if self._smaller is not None:
            self._smaller.end()

    def _cut(self, rows: Pixels) -> None:
        number = self._level.first + self._row * self._level.columns
        self._row += 1
        for column in range(self._level.columns):
            tile = rows[:, column * TILE : (column + 1) * TILE]
            self._add(number + column, tile, full_size=self._level.first == 0)
        if self._smaller is not None:
            self._smaller.take(halved(rows))


def halved(pixels: Pixels) -> Pixels:
    """Return a picture of half the size, rounded up: each pixel is the mean of four."""
    image = Image.fromarray(pixels)
    if image.mode == "RGBA":  # colours count as far as they are visible
        return np.asarray(image.convert("RGBa").reduce(2).convert("RGBA"))
    return np.asarray(image.reduce(2))
