"""What a simulated cluster is made of: settings, start tags, jobs and workers."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

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


@dataclass(frozen=True)
class Settings:
    """What is simulated. Times are seconds; those of faults are means."""

    hours: float = 10.0
    workers: int = 4
    lease: float = 30.0
    max_crashes: int = 3
    clients: int = 5
    load: float = 0.6
    """Work that comes, as a part of what the workers could do without faults."""
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


class SimulationError(AssertionError):
    """Something that must hold does not; the message has the seed."""
