"""Tasks that run at the same time in one worker: they start in order, as memory allows."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

N = TypeVar("N", bound=Hashable)


@dataclass(frozen=True, eq=False)
class MemoryNeed(Generic[N]):
    """The memory that a task takes, in bytes."""

    network: N
    """Identifies the loaded network; tasks with the same one share its weights."""
    weights: int
    tiles: int
    limit: int
    """What weights and tiles of all running tasks may add up to."""


class MemoryGate(Generic[N]):
    """Lets tasks start first come, first served, while together they fit into the limit."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running: list[MemoryNeed[N]] = []
        self._cached: dict[N, int] = {}
        self._waiting: deque[MemoryNeed[N]] = deque()

    @contextlib.contextmanager
    def reserve(self, need: MemoryNeed[N], exclusive: MemoryNeed[N]) -> Iterator[MemoryNeed[N]]:
        """Wait until a task fits beside the others, then hold its memory for the block.

        Args:
            need: what the task takes beside other tasks.
            exclusive: what it takes when no other task runs; this is granted even if it exceeds
                the limit.

        Yields:
            The one of the two that applies.
        """
        with self._changed:
            self._waiting.append(need)
            self._changed.wait_for(lambda: self._waiting[0] is need and self._fits(need))
            self._waiting.popleft()
            reserved = need if self._running else exclusive
            self._running.append(reserved)
            self._changed.notify_all()  # the next task may fit as well
        try:
            yield reserved
        finally:
            with self._changed:
                self._running.remove(reserved)
                self._changed.notify_all()

    def networks_in_use(self) -> set[N]:
        """Return the networks of the running tasks."""
        with self._changed:
            return {need.network for need in self._running}

    def used(self) -> int:
        """Return the bytes that running tasks take, plus the memory cached by networks."""
        with self._changed:
            return self._bytes_of(self._running)

    def set_cached(self, network: N, tiles: int) -> None:
        """Record the tile memory cached for a network, in bytes; 0 clears it."""
        with self._changed:
            if tiles:
                self._cached[network] = max(tiles, self._cached.get(network, 0))
            else:
                self._cached.pop(network, None)
                self._changed.notify_all()

    def _fits(self, need: MemoryNeed[N]) -> bool:
        together = [*self._running, need]
        return len(together) == 1 or self._bytes_of(together) <= min(one.limit for one in together)

    def _bytes_of(self, tasks: Sequence[MemoryNeed[N]]) -> int:
        weights = {one.network: one.weights for one in tasks}
        return sum([*weights.values(), *self._cached.values(), *(one.tiles for one in tasks)])
