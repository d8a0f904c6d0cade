"""The crew of a task: how many tiles are done at once, each by how many threads."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass

from upscaled.engines.engine import PADDING
from upscaled.pictures import Size

SMALLEST_TILE = 32
LARGEST_TILE = 400
"""Beyond this the padding costs an animevideov3 net under 10 %, and memory grows on."""

MEMORY_PER_CORE = 2 << 30
"""Bytes that the tiles in work may take at most for each core, however much memory there is."""

_DOUBLING = 1.19
"""What a tile takes of processor time with twice the threads: those wait for one another at every
layer. animevideov3-x4, tile 400: 8.3 µs a pixel with two threads on a tile, 7.0 with two tiles."""
_COUNTED = 16
"""Tiles a worker beyond which little depends on how the last of them are shared out."""


@dataclass(frozen=True)
class Crew:
    """``workers`` tiles are in work at once, with ``threads`` threads each."""

    workers: int
    threads: int


@dataclass(frozen=True)
class Budget:
    """What a task may take of the machine. Nothing in it changes while the process lives."""

    cores: int
    memory: int
    """Bytes for the tiles in work."""


def speed(threads: int) -> float:
    """Return how much a tile is done quicker by so many threads than by one."""
    return threads / math.pow(_DOUBLING, math.log2(threads))


def crew_for(picture: Size, tile: int, bytes_per_pixel: int, budget: Budget) -> Crew:
    """Choose the crew for tiles of a given size.

    The answer depends on the whole picture, not on the rows of a task or on the memory that is
    free now: whatever the threads may do to the last bits of a network's values, a band done
    again has the bytes of the whole picture.
    """
    return _quickest(picture, tile, bytes_per_pixel, budget)[0]


def choose_tile(picture: Size, bytes_per_pixel: int, budget: Budget, free: int) -> int:
    """Choose the tile side in source pixels.

    Large tiles waste little on padding, small ones leave none of the cores idle, and all in work
    at once have to fit into memory. Of sides that are equally quick the smallest is taken. Where
    not even one of the smallest tiles fits, that is the answer.

    Args:
        picture: size of the whole source.
        bytes_per_pixel: the network's peak memory for each pixel of a padded tile.
        budget: what there is at most.
        free: bytes that are free now.
    """
    best, least = SMALLEST_TILE, math.inf
    for side in sorted(_sides(picture)):
        crew, time = _quickest(picture, side, bytes_per_pixel, budget)
        needed = crew.workers * tile_bytes(picture, side, bytes_per_pixel)
        if needed <= min(free, budget.memory) and time < least:
            best, least = side, time
    return best


def tile_bytes(picture: Size, tile: int, bytes_per_pixel: int) -> int:
    """Return the memory that one tile takes at its hungriest."""
    width, height = (min(tile, side) + 2 * PADDING for side in (picture.width, picture.height))
    return width * height * bytes_per_pixel


def _quickest(picture: Size, tile: int, bytes_per_pixel: int, budget: Budget) -> tuple[Crew, float]:
    """Return the best crew whose tiles fit into the budget, and its time for the picture."""
    most = budget.memory // max(1, tile_bytes(picture, tile, bytes_per_pixel))
    best = Crew(1, budget.cores)
    least = _time(picture, tile, best)
    for crew in _crews(budget.cores):
        if crew.workers <= most and (time := _time(picture, tile, crew)) < least:
            best, least = crew, time
    return best, least


def _crews(cores: int) -> Iterator[Crew]:
    threads = cores
    while threads >= 1:
        yield Crew(cores // threads, threads)
        threads //= 2


def _sides(picture: Size) -> set[int]:
    """Return the sides worth considering: those that make equal parts, and some between."""
    sides = {SMALLEST_TILE, LARGEST_TILE}
    for length in (picture.width, picture.height):
        fewest = math.ceil(length / LARGEST_TILE)
        for parts in range(fewest, max(fewest, min(length // SMALLEST_TILE, 4 * fewest + 16)) + 1):
            sides.add(math.ceil(length / parts))
    sides |= set(range(SMALLEST_TILE, LARGEST_TILE, 8))
    longest = max(picture.width, picture.height, SMALLEST_TILE)
    return {side for side in sides if SMALLEST_TILE <= side <= min(LARGEST_TILE, longest)}


def _time(picture: Size, tile: int, crew: Crew) -> float:
    """Return the time for the picture, in that of a pixel with a thread of its own.

    Padding counts as much as the tile, although the last layers leave it out: for the smallest
    tiles that is up to a fifth too much.
    """
    pace = speed(crew.threads)
    columns, rows = math.ceil(picture.width / tile), math.ceil(picture.height / tile)
    work = (picture.width + 2 * PADDING * columns) * (picture.height + 2 * PADDING * rows)
    if crew.workers == 1 or columns * rows > _COUNTED * crew.workers:
        return work / (pace * crew.workers)
    # Who is free takes the next tile; the last one to finish counts.
    busy = [0.0] * crew.workers
    for row in range(rows):
        height = min(tile, picture.height - row * tile) + 2 * PADDING
        for column in range(columns):
            width = min(tile, picture.width - column * tile) + 2 * PADDING
            heapq.heapreplace(busy, busy[0] + width * height / pace)
    return max(busy)
