"""Tiles: how rows of a picture are cut for the network, and which pixels pad them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from upscaled.engines.engine import PADDING


@dataclass(frozen=True)
class Tile:
    """Columns ``left`` to ``right`` and rows ``top`` to ``bottom`` (excluded) of the source."""

    left: int
    top: int
    right: int
    bottom: int


def plan_tiles(width: int, top: int, bottom: int, tile: int) -> list[list[Tile]]:
    """Cut rows ``top`` to ``bottom`` of a picture ``width`` wide into rows of tiles.

    The grid starts at ``top``, so a band whose height is a multiple of ``tile`` has the same tiles
    as the whole picture.
    """
    return [
        [
            Tile(left, upper, min(left + tile, width), min(upper + tile, bottom))
            for left in range(0, width, tile)
        ]
        for upper in range(top, bottom, tile)
    ]


def repeated(start: int, stop: int, length: int) -> NDArray[np.intp]:
    """Return the same as `reflected`, but beyond the picture the nearest position in it."""
    positions: NDArray[np.intp] = np.arange(start - PADDING, stop + PADDING).clip(0, length - 1)
    return positions


def reflected(start: int, stop: int, length: int) -> NDArray[np.intp]:
    """Return the source positions of ``start - PADDING`` to ``stop + PADDING``.

    Positions outside 0 to ``length`` are reflected at the outermost pixel, repeatedly where the
    picture is smaller than the padding, as ``numpy.pad(mode="reflect")`` does. The native programs
    do the same, but read outside the buffer for pictures smaller than the padding.
    """
    positions = np.arange(start - PADDING, stop + PADDING)
    if length == 1:
        return np.zeros_like(positions)
    period = 2 * (length - 1)
    folded = np.abs(positions) % period
    result: NDArray[np.intp] = np.minimum(folded, period - folded)
    return result
