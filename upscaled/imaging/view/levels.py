"""The levels of a tile pyramid: level 0 is the picture, each next one half as wide and high."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from upscaled.pictures import Size

TILE = 512
"""Side of a tile in pixels; those at the right and at the bottom are smaller."""


@dataclass(frozen=True)
class Level:
    """One level."""

    size: Size
    first: int
    """Number of its first tile, counted through all levels."""

    @property
    def columns(self) -> int:
        """Tiles side by side."""
        return -(-self.size.width // TILE)

    @property
    def rows(self) -> int:
        """Tiles one above the other."""
        return -(-self.size.height // TILE)


def levels_of(size: Size) -> tuple[Level, ...]:
    """Return the levels of a picture; the last one is a single tile."""
    return tuple(_levels(size))


def _levels(size: Size) -> Iterator[Level]:
    first = 0
    while True:
        level = Level(size, first)
        yield level
        first += level.columns * level.rows
        if max(size.width, size.height) <= TILE:
            return
        size = Size(-(-size.width // 2), -(-size.height // 2))


def tile_count(size: Size) -> int:
    """Return how many tiles all levels of a picture have."""
    last = levels_of(size)[-1]
    return last.first + last.columns * last.rows
