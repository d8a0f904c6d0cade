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


class RetryPlan:
    """Climbs down: half the tile on one device down to `SMALLEST_TILE`, then the next device.

    A place that was left is never come back to, so a ladder always ends.

    Args:
        first: the first attempt.
        others: where to go when its place has failed, in this order.
        fixed_tile: the caller chose the tile size; it is never overridden.
    """

    def __init__(self, first: Rung, others: Sequence[Place], *, fixed_tile: bool) -> None:
        self.rung = first
        self._others = [place for place in others if place != first.place]
        self._fixed_tile = fixed_tile

    def stay(self, used_tile: int) -> None:
        """Have the present attempt made again, with just the tile size it really took."""
        self.rung = Rung(self.rung.place, used_tile)

    def climb_down(self, used_tile: int) -> bool:
        """Move to the next rung after the present one failed; False when there is none.

        Args:
            used_tile: the tile size that the engine really took, 0 where it did not say.
        """
        tile = used_tile or self.rung.tile_size or ASSUMED_AUTO_TILE
        if not self._fixed_tile and tile > SMALLEST_TILE:
            self.rung = Rung(self.rung.place, max(SMALLEST_TILE, tile // 2))
            return True
        return self.leave()

    def leave(self) -> bool:
        """Move to the next place, whatever tiles are left here; False when there is none."""
        if not self._others:
            return False
        tile = self.rung.tile_size if self._fixed_tile else 0
        self.rung = Rung(self._others.pop(0), tile)
        return True
