"""The parallelism of a task: how many tiles run at once, with how many threads each."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass

from upscaled.engines.engine import PADDING
from upscaled.pictures import Size

LARGEST_TILE = 400
"""Above this size padding costs animevideov3 less than 10 %, while memory keeps growing."""

MEMORY_PER_CORE = 2 << 30
"""Upper limit in bytes, for each core, for all tiles that run at once."""

DOUBLING = 1.19
"""Processor time of a tile with twice the threads, which wait for each other at every layer.
Measured with animevideov3-x4 at tile 400: 8.3 µs a pixel with two threads on one tile, 7.0 µs with
one thread on each of two tiles. Where `CpuMethod.doubling` was measured, that counts instead."""
_COUNTED = 16
"""With more tiles than this for each worker, the distribution of the last ones hardly matters."""


@dataclass(frozen=True)
class Parallelism:
    """``workers`` tiles run at once, with ``threads`` threads each."""

    workers: int
    threads: int


@dataclass(frozen=True)
class Resources:
    """What a task may use of the machine. It stays the same while the process lives."""

    cores: int
    memory: int
    """Bytes for all tiles that run at once."""
    largest_tile: int = LARGEST_TILE
    doubling: float = DOUBLING


def speedup(threads: int, doubling: float = DOUBLING) -> float:
    """Return how many times faster one tile is with ``threads`` threads than with one.

    Args:
        threads: that work on the tile.
        doubling: processor time of a tile with twice the threads, as a multiple.
    """
    return threads / math.pow(doubling, math.log2(threads))


def parallelism_for(
    picture: Size, tile: int, bytes_per_pixel: int, resources: Resources
) -> Parallelism:
    """Choose the parallelism for tiles of a given size.

    The result depends on the whole picture, not on the rows of a task or on the memory that is free
    now. So a band that is done again has the same bytes, even if the number of threads should
    change the last bits of a network's values.
    """
    return fastest(picture, tile, bytes_per_pixel, resources)[0]


def tile_bytes(picture: Size, tile: int, bytes_per_pixel: int) -> int:
    """Return the peak memory of one tile in bytes."""
    width, height = (min(tile, side) + 2 * PADDING for side in (picture.width, picture.height))
    return width * height * bytes_per_pixel


def fastest(
    picture: Size, tile: int, bytes_per_pixel: int, resources: Resources
) -> tuple[Parallelism, float]:
    """Return the fastest parallelism whose tiles fit, and its time for the picture."""
    most = resources.memory // max(1, tile_bytes(picture, tile, bytes_per_pixel))
    best = Parallelism(1, resources.cores)
    least = _time(picture, tile, best, resources.doubling)
    for parallelism in _candidates(resources.cores):
        if (
            parallelism.workers <= most
            and (time := _time(picture, tile, parallelism, resources.doubling)) < least
        ):
            best, least = parallelism, time
    return best, least


def _candidates(cores: int) -> Iterator[Parallelism]:
    threads = cores
    while threads >= 1:
        yield Parallelism(cores // threads, threads)
        threads //= 2


def _time(picture: Size, tile: int, parallelism: Parallelism, doubling: float) -> float:
    """Return the time for the picture, in units of one pixel on one thread.

    Padding counts in full, although the last layers skip it. This overestimates the smallest tiles
    by up to a fifth.
    """
    pace = speedup(parallelism.threads, doubling)
    columns, rows = math.ceil(picture.width / tile), math.ceil(picture.height / tile)
    work = (picture.width + 2 * PADDING * columns) * (picture.height + 2 * PADDING * rows)
    if parallelism.workers == 1 or columns * rows > _COUNTED * parallelism.workers:
        return work / (pace * parallelism.workers)
    # The next free worker takes the next tile; the last one to finish decides.
    busy = [0.0] * parallelism.workers
    for row in range(rows):
        height = min(tile, picture.height - row * tile) + 2 * PADDING
        for column in range(columns):
            width = min(tile, picture.width - column * tile) + 2 * PADDING
            heapq.heapreplace(busy, busy[0] + width * height / pace)
    return max(busy)
