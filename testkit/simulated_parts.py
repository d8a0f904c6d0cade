"""What a simulated cluster is made of: settings, start tags, a queue, jobs and workers."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from upscaled.cluster import work_queue
from upscaled.cluster.preference import Preference
from upscaled.jobs.order import STRETCH, LoadedModels

QUEUED, PROCESSING = "queued", "processing"
COMPLETED, FAILED, CANCELLED = "completed", "failed", "cancelled"
ENDS = frozenset({COMPLETED, FAILED, CANCELLED})


class StartTags:
    """Start-time fair queueing, as `work_queue.start_tag` and `take` do it in SQL."""

    def __init__(self) -> None:
        self.virtual = 0.0
        self._finish: dict[str, float] = {}

    def start(self, client: str, cost: float) -> float:
        """Return the start tag of a client's next job."""
        tag = max(self.virtual, self._finish.get(client, 0.0))
        self._finish[client] = tag + cost
        return tag

    def served(self, tag: float) -> None:
        """Record that the job with this tag was taken."""
        self.virtual = max(self.virtual, tag)


class TagQueue:
    """Waiting jobs by network and start tag, as `work_queue.take` gives them to workers."""

    def __init__(self) -> None:
        self._heaps: dict[str, list[tuple[int, int]]] = {}
        self._networks: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._networks)

    def __iter__(self) -> Iterator[int]:
        return iter(self._networks)

    def put(self, number: int, network: str, tag: float) -> None:
        """Add a job; of two with one priority, the lower number is first."""
        self._networks[number] = network
        heap = self._heaps.setdefault(network, [])
        heapq.heappush(heap, (-work_queue.priority(tag), number))

    def remove(self, number: int) -> bool:
        """Remove a job; return False if it does not wait."""
        return self._networks.pop(number, None) is not None

    def ahead(self) -> list[int]:
        """Return all jobs by their tags."""
        entries = (entry for network in list(self._heaps) for entry in self._sorted(network))
        return [number for _, number in sorted(entries)]

    def _sorted(self, network: str) -> list[tuple[int, int]]:
        return sorted(e for e in self._heaps[network] if self._networks.get(e[1]) == network)

    def take(self, delays: Mapping[str, float] = MappingProxyType({})) -> tuple[int, bool]:
        """Remove the next job; return its number, and whether another was first in order.

        Args:
            delays: by how many virtual seconds jobs of a network count as later.

        Raises:
            IndexError: no job waits.
        """
        heads: list[tuple[int, int, int, str]] = []
        for network, heap in self._heaps.items():
            while heap and self._networks.get(heap[0][1]) != network:
                heapq.heappop(heap)
            if heap:
                place, number = heap[0]
                delay = int(delays.get(network, 0.0) * work_queue.STEPS)
                heads.append((place + delay, number, place, network))
        if not heads:
            raise IndexError("no job waits")
        _, number, _, network = min(heads)
        heapq.heappop(self._heaps[network])
        del self._networks[number]
        return number, number != min((head[2], head[1]) for head in heads)[1]


LOADS = {"small": 0.02, "medium": 0.3, "large": 2.0, "larger": 5.0}
"""Seconds to load each network."""
MOST = 156.0
"""Seconds of the largest job."""


@dataclass(frozen=True)
class Settings:
    """What is simulated. Times are seconds; those of faults are means."""

    hours: float = 10.0
    workers: int = 4
    lease: float = 30.0
    max_crashes: int = 3
    clients: int = 5
    load: float = 0.6
    """Work that comes, as a part of what the workers could do without faults, one job at a time;
    they do both that they hold."""
    death: float = 3600.0
    """Between two deaths of a worker."""
    cut: float = 3600.0
    """Between two times when a worker is cut off from the database, or stopped."""
    restart: float = 7200.0
    """Between two restarts of the database."""
    slow_blobs: float = 7200.0
    """Between two times when the blobs are slow."""
    jump: float = 14400.0
    """Between two jumps of the database's clock."""
    fenced: bool = True
    """False: workers' writes count without a look at the lease, to see that the checks find it."""
    ordered: bool = True
    """False: the latest job is taken first, likewise."""
    kept: int = 2
    """Networks that a worker keeps loaded."""
    prefers: bool = True
    """Workers prefer jobs of loaded networks."""
    bounded: bool = True
    """False: jobs of loaded networks go ahead however long others wait, likewise."""


@dataclass
class SimulatedJob:
    """A job's row, and what the checks must know of it."""

    number: int
    client: str
    cost: float
    created: float
    tag: float
    virtual: float
    """The virtual time when it came."""
    network: str
    state: str = QUEUED
    lease: int = 0
    worker: int | None = None
    """The worker's number in the queue; None while it waits."""
    crashes: int = 0
    taken: float | None = None
    ended: float | None = None
    result: int | None = None
    """Lease under which the result was made."""
    overtaken: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Work of jobs that came later and were taken before, by client."""

    @property
    def most_overtaken(self) -> float:
        """How much of it is fair.

        Jobs that come later have tags from `virtual` on, and all but the last end before the job's
        own tag, or as much after it as loading its network counts. Priorities are tenths of a
        second.
        """
        return self.tag - self.virtual + STRETCH * LOADS[self.network] + MOST + 0.2


@dataclass
class SimulatedWorker:
    """A process that does jobs."""

    name: int
    alive: bool = True
    life: int = 0
    """Counts its starts: events of an earlier life do nothing."""
    number: int = 0
    """In the queue's table of workers."""
    look: int = 0
    """Number of its next look for a job."""
    cut_until: float = 0.0
    """It can't reach the database before."""
    stopped_until: float = 0.0
    """It does nothing before."""
    heard_since: float | None = None
    held: dict[int, int] = field(default_factory=dict)
    """Numbers of jobs, and the leases under which it does them."""
    preference: Preference = field(default_factory=lambda: Preference(LoadedModels(0)))
    loaded: LoadedModels = field(default_factory=lambda: LoadedModels(0))
    """What its engine has loaded."""
    loads: int = 0
    """How often it loaded a network."""
    loading_seconds: float = 0.0

    def restart(self, kept: int) -> None:
        """Begin a new life, with nothing held and nothing loaded."""
        self.alive, self.heard_since = True, None
        self.life += 1
        self.held.clear()
        self.preference = Preference(LoadedModels(kept))
        self.loaded = LoadedModels(kept)

    def delays(self, settings: Settings) -> dict[str, float]:
        """Return by how much jobs of each network count as later."""
        found = self.preference.delays({name: {name: load} for name, load in LOADS.items()})
        times = settings.prefers * (1 if settings.bounded else 1e6)
        return {name: times * delay for name, delay in found.items()}

    def load(self, network: str) -> float:
        """Load a network unless it is loaded; return the seconds that it takes."""
        if not self.loaded.use(network):
            return 0.0
        self.loads += 1
        self.loading_seconds += LOADS[network]
        return LOADS[network]


class SimulationError(AssertionError):
    """Something that must hold does not; the message has the seed."""
