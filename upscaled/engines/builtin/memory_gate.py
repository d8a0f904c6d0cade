"""Tasks under way at once in one worker: what they take together, and who comes first."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

N = TypeVar("N", bound=Hashable)


@dataclass(frozen=True, eq=False)
class Needs(Generic[N]):
    """What a task takes of its process, in bytes."""

    network: N
    """Which loaded network it runs; tasks of the same one share it."""
    weights: int
    tiles: int
    room: int
    """What weights and tiles of all tasks may come to, as far as this one can tell."""


class Sharing(Generic[N]):
    """Lets tasks begin, first come, first served, as long as there is room for all of them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._under_way: list[Needs[N]] = []
        self._kept: dict[N, int] = {}
        self._waiting: deque[Needs[N]] = deque()

    @contextlib.contextmanager
    def taking(self, needs: Needs[N], alone: Needs[N]) -> Iterator[Needs[N]]:
        """Take what a task needs for the length of the block, as soon as there is room for it.

        Args:
            needs: beside others.
            alone: where there are none; it gets that in any case.

        Yields:
            Which of the two it was.
        """
        with self._changed:
            self._waiting.append(needs)
            self._changed.wait_for(lambda: self._waiting[0] is needs and self._fits(needs))
            self._waiting.popleft()
            taken = needs if self._under_way else alone
            self._under_way.append(taken)
            self._changed.notify_all()  # the next may fit as well
        try:
            yield taken
        finally:
            with self._changed:
                self._under_way.remove(taken)
                self._changed.notify_all()

    def networks(self) -> set[N]:
        """Return the networks that tasks under way run."""
        with self._changed:
            return {needs.network for needs in self._under_way}

    def taken(self) -> int:
        """Return the bytes that tasks under way take, and what others have left."""
        with self._changed:
            return self._bytes_of(self._under_way)

    def keeps(self, network: N, tiles: int) -> None:
        """Take note that a task that ends leaves so many bytes to its network; 0: nobody has."""
        with self._changed:
            if tiles:
                self._kept[network] = max(tiles, self._kept.get(network, 0))
            else:
                self._kept.pop(network, None)
                self._changed.notify_all()

    def _fits(self, needs: Needs[N]) -> bool:
        together = [*self._under_way, needs]
        return len(together) == 1 or self._bytes_of(together) <= min(one.room for one in together)

    def _bytes_of(self, tasks: Sequence[Needs[N]]) -> int:
        weights = {one.network: one.weights for one in tasks}
        return sum([*weights.values(), *self._kept.values(), *(one.tiles for one in tasks)])
