"""The ladder: what is tried next when an attempt at upscaling failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from upscaled.engines.pool import Place

SMALLEST_TILE = 32
"""The native programs refuse less; padding would be most of the work below it."""

ASSUMED_AUTO_TILE = 200
"""What the native programs take on a GPU with more than 1900 MB, their most common choice."""


@dataclass(frozen=True)
class Rung:
    """One attempt: where, and with which tile size (0: the engine's choice)."""

    place: Place
    tile_size: int


def next_rung(
    failed: Rung, used_tile: int, *, fixed_tile: bool, places: Sequence[Place]
) -> Rung | None:
    """Return what to try after ``failed``, None when there is nothing left.

    Half the tile on the same device, down to `SMALLEST_TILE`; then the next of ``places``.

    Args:
        failed: the attempt that failed.
        used_tile: the tile size that the engine really took, 0 where it did not say.
        fixed_tile: the caller chose the tile size; it is never overridden.
        places: all places in the order in which they are to be tried.
    """
    tile = used_tile or failed.tile_size or ASSUMED_AUTO_TILE
    if not fixed_tile and tile > SMALLEST_TILE:
        return Rung(failed.place, max(SMALLEST_TILE, tile // 2))
    untried = places[places.index(failed.place) + 1 :] if failed.place in places else places
    if not untried:
        return None
    return Rung(untried[0], failed.tile_size if fixed_tile else 0)
