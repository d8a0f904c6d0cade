"""RetryPlanner: plan the next attempt after one failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from upscaled.engines.engine import SMALLEST_TILE
from upscaled.engines.pool import Place
from upscaled.engines.traits import BINARY
from upscaled.workers import deaths


@dataclass(frozen=True)
class AttemptPlan:
    """Where an attempt runs, and with which tile size (0: the engine chooses)."""

    place: Place
    tile_size: int


class RetryPlanner:
    """Plans the attempts: half the tile, down to `SMALLEST_TILE`, then the next place.

    If a process dies, the same attempt is made again, `deaths.TRIES` times in all without progress.
    The last time it has half the tile, unless the caller fixed it: memory may have run out. Then
    the next place follows.

    A place is never used again after it was left, so the attempts always end.

    Args:
        first: the first attempt.
        others: the places to use after its place has failed, in this order.
        fixed_tile: the caller chose the tile size; it is never changed.
    """

    def __init__(self, first: AttemptPlan, others: Sequence[Place], *, fixed_tile: bool) -> None:
        self.plan = first
        """The current attempt."""
        self._others = [place for place in others if place != first.place]
        self._fixed_tile = fixed_tile
        self._deaths = 0
        """Processes that died at this place since the last progress."""

    def progressed(self) -> None:
        """Note that rows were finished: deaths before them don't count any more."""
        self._deaths = 0

    def after_death(self, used_tile: int) -> bool:
        """Plan the attempt after one whose process died; False if none is left.

        Args:
            used_tile: the tile size that the engine really used, 0 if it did not say.
        """
        self._deaths += 1
        if self._deaths >= deaths.TRIES:
            return self.next_place()
        tile = used_tile or self.plan.tile_size
        if self._deaths == deaths.TRIES - 1 and tile > SMALLEST_TILE and not self._fixed_tile:
            self.plan = AttemptPlan(self.plan.place, max(SMALLEST_TILE, tile // 2))
        return True

    def repeat(self, used_tile: int) -> None:
        """Plan the current attempt again, with the tile size that the engine really used."""
        self.plan = AttemptPlan(self.plan.place, used_tile)

    def smaller_tile_or_next_place(self, used_tile: int) -> bool:
        """Plan the attempt after a failed one; False if none is left.

        Args:
            used_tile: the tile size that the engine really used, 0 if it did not say.
        """
        tile = used_tile or self.plan.tile_size or BINARY.default_tile
        if not self._fixed_tile and tile > SMALLEST_TILE:
            self.plan = AttemptPlan(self.plan.place, max(SMALLEST_TILE, tile // 2))
            return True
        return self.next_place()

    def next_place(self) -> bool:
        """Plan an attempt at the next place, whatever tile sizes remain; False if there is none."""
        if not self._others:
            return False
        self._deaths = 0
        tile = self.plan.tile_size if self._fixed_tile else 0
        self.plan = AttemptPlan(self._others.pop(0), tile)
        return True
