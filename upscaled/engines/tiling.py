"""Tiles: how rows of a picture are cut for the network, and where their context comes from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from upscaled.engines.protocol import PADDING
from upscaled.pictures import Size

SMALLEST_TILE = 32
LARGEST_TILE = 400
"""Beyond this the padding costs an animevideov3 net under 10 %, and memory grows on."""
MEMORY_CAP = 4 << 30
"""Bytes that one tile may take at most, however much memory there is: x4plus at tile 200."""


@dataclass(frozen=True)
class Tile:
    """Columns ``left`` to ``right`` and rows ``top`` to ``bottom`` (excluded) of the source."""

    left: int
    top: int
    right: int
    bottom: int


def plan_tiles(width: int, top: int, bottom: int, tile: int) -> list[list[Tile]]:
    """Cut rows ``top`` to ``bottom`` of a picture ``width`` wide into rows of tiles.

    The grid starts at ``top``, like the native programs' at 0: bands whose heights are
    multiples of ``tile`` have the very tiles of the whole picture.
    """
    return [
        [
            Tile(left, upper, min(left + tile, width), min(upper + tile, bottom))
            for left in range(0, width, tile)
        ]
        for upper in range(top, bottom, tile)
    ]


def choose_tile(area: Size, bytes_per_pixel: int, memory: int) -> int:
    """Choose the tile side in source pixels for a range of rows of ``area``'s size.

    The largest tile that fits ``memory`` bytes wastes least on padding. Among the sides that
    need no more tiles than that, the smallest is as quick and takes the least memory.

    Args:
        area: width of the picture, height of the range.
        bytes_per_pixel: the network's peak memory for each pixel of a padded tile.
        memory: bytes that inference may take.
    """
    budget = min(memory, MEMORY_CAP)
    side = math.isqrt(max(budget, 0) // max(bytes_per_pixel, 1)) - 2 * PADDING
    side = min(max(side, SMALLEST_TILE), LARGEST_TILE)
    across = math.ceil(area.width / side)
    down = math.ceil(area.height / side)
    balanced = max(math.ceil(area.width / across), math.ceil(area.height / down))
    return max(balanced, min(SMALLEST_TILE, side))


def reflected(start: int, stop: int, length: int) -> NDArray[np.intp]:
    """Return the source positions of ``start - PADDING`` to ``stop + PADDING``.

    Positions outside 0 to ``length`` are reflected at the outermost pixel, to and fro where the
    picture is smaller than the padding, as ``numpy.pad(mode="reflect")`` does. The native
    programs do the same for larger pictures and read beyond the buffer for smaller ones.
    """
    positions = np.arange(start - PADDING, stop + PADDING)
    if length == 1:
        return np.zeros_like(positions)
    period = 2 * (length - 1)
    folded = np.abs(positions) % period
    result: NDArray[np.intp] = np.minimum(folded, period - folded)
    return result
