"""The side of tiles: the one that makes a picture quickest within the memory."""

from __future__ import annotations

import math

from upscaled.engines.builtin.parallelism import Resources, fastest, tile_bytes
from upscaled.engines.engine import SMALLEST_TILE
from upscaled.pictures import Size


def choose_tile(picture: Size, bytes_per_pixel: int, resources: Resources, free: int) -> int:
    """Choose the tile side in source pixels.

    Large tiles waste less on padding. Small tiles keep all cores busy and take less memory. Among
    sides that are equally fast the smallest is chosen. If none fits, `SMALLEST_TILE` is returned.

    Args:
        picture: size of the whole source.
        bytes_per_pixel: the network's peak memory for each pixel of a padded tile.
        resources: the upper limits.
        free: bytes that are free now.
    """
    best, least = SMALLEST_TILE, math.inf
    for side in sorted(_sides(picture, resources.largest_tile)):
        parallelism, time = fastest(picture, side, bytes_per_pixel, resources)
        needed = parallelism.workers * tile_bytes(picture, side, bytes_per_pixel)
        if needed <= min(free, resources.memory) and time < least:
            best, least = side, time
    return best


def _sides(picture: Size, largest: int) -> set[int]:
    """Return the sides to consider: those that give equal parts, and some between."""
    sides = {SMALLEST_TILE, largest}
    for length in (picture.width, picture.height):
        fewest = math.ceil(length / largest)
        for parts in range(fewest, max(fewest, min(length // SMALLEST_TILE, 4 * fewest + 16)) + 1):
            sides.add(math.ceil(length / parts))
    sides |= set(range(SMALLEST_TILE, largest, 8))
    longest = max(picture.width, picture.height, SMALLEST_TILE)
    return {side for side in sides if SMALLEST_TILE <= side <= min(largest, longest)}
