"""The order of waiting jobs, as pure logic without a clock.

docs/scheduling.md tells it at length. Two rules, both in seconds of work:

- Between clients: fair shares. Each client has an account of the work done for it; next is the
  client whose account would be lowest *after* its next job. So all waiting clients get the same
  time on the device, a small job comes before a large one, and a large one comes as soon as the
  others have had as much time as it needs.
- Within a client: the job with the earliest due moment, ``created + STRETCH * seconds``. The due
  moment never changes, so a job can be overtaken only by those that arrive within ``STRETCH`` times
  its own work after it: no job waits for ever.

If a job's model must be loaded first, both rules add the loading time.
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

STRETCH = 10.0
"""How many times its own work a job is expected to wait. With 10, a picture of half a second yields
to those of the next five seconds, one of an hour to those of the next ten hours. A smaller value
approaches first come, first served; with a larger one, large jobs wait for longer than a working
day."""

LEAST_SECONDS = 0.001
"""Minimum work counted for a job, so that a client's tiny jobs are not free."""


@dataclass(frozen=True)
class Waiting:
    """A waiting job, as the order sees it."""

    id: str
    created: float
    """Seconds since the epoch; must not go back between a client's jobs of the same work."""
    seconds: float = 0.0
    """How long it will hold a slot once its model is loaded."""
    client: str = ""
    """Key of its client."""
    model: str = ""
    load_seconds: float = 0.0
    """How long loading the model takes if it is not loaded; 0 if loading is part of every job."""


class Order(Protocol):
    """An order of waiting jobs."""

    def __len__(self) -> int: ...

    def put(self, job: Waiting) -> None:
        """Add a job that is not waiting yet."""
        ...

    def remove(self, job_id: str) -> bool:
        """Remove a job; return False if it is not waiting."""
        ...

    def pop(self) -> Waiting:
        """Remove and return the next job.

        Raises:
            IndexError: no job is waiting.
        """
        ...

    def head(self) -> Waiting | None:
        """Return the next job without removing it; None if no job is waiting."""
        ...

    def ahead(self) -> list[Waiting]:
        """Return the jobs in the order in which they would be taken if none were added."""
        ...


class FifoOrder:
    """First come, first served."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, Waiting] = OrderedDict()

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, job: Waiting) -> None:
        self._jobs[job.id] = job

    def remove(self, job_id: str) -> bool:
        """Remove a job; return False if it is not waiting."""
        return self._jobs.pop(job_id, None) is not None

    def pop(self) -> Waiting:
        """Remove and return the oldest job.

        Raises:
            IndexError: no job is waiting.
        """
        if not self._jobs:
            raise IndexError("nobody waits")
        return self._jobs.popitem(last=False)[1]

    def head(self) -> Waiting | None:
        """Return the oldest job, if there is one."""
        return next(iter(self._jobs.values()), None)

    def ahead(self) -> list[Waiting]:
        return list(self._jobs.values())


class LoadedModels:
    """The models that the engine keeps loaded: those used last.

    Args:
        capacity: how many; 0 for an engine that loads one for every job.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._models: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, model: str) -> bool:
        return model in self._models

    def use(self, model: str) -> bool:
        """Record that a job of ``model`` is next; tell whether the set of loaded models changed."""
        if not self._capacity:
            return False
        changed = model not in self._models
        self._models[model] = None
        self._models.move_to_end(model)
        while len(self._models) > self._capacity:
            self._models.popitem(last=False)
        return changed

    def wait_for(self, job: Waiting) -> float:
        """Return the seconds that loading adds to a job."""
        return 0.0 if job.model in self._models else job.load_seconds

    def copy(self) -> LoadedModels:
        twin = LoadedModels(self._capacity)
        twin._models = self._models.copy()
        return twin


@dataclass
class _Lane:
    """Jobs of one client and one model, the earliest due first; may contain removed jobs."""

    heap: list[tuple[float, int, Waiting]] = field(default_factory=list)


@dataclass
class _Client:
    """A client's account and jobs."""

    account: float
    """Virtual seconds: the work done for the client, on a clock shared by all clients."""
    lanes: dict[str, _Lane] = field(default_factory=dict)
    bid: int = -1
    """Number of the client's valid entry among the bids."""
    next: int = -1
    """Number of the job that the bid is for."""


_Bid = tuple[float, float, int, int, str]
"""Account after the job, the job's due time and number, the bid's number, the client."""


class FairOrder:
    """The fair order, as described in this module.

    Taking a job costs the logarithm of the number of clients. If it makes the engine load another
    model, every client's bid is computed again.

    Args:
        loaded: the models that are loaded.
    """

    def __init__(self, loaded: LoadedModels) -> None:
        self._loaded = loaded
        self._jobs: dict[str, tuple[int, Waiting]] = {}
        self._clients: dict[str, _Client] = {}
        self._bids: list[_Bid] = []
        self._numbers = itertools.count()
        self._now = 0.0
        """The account of the last job taken; no waiting client has one above it."""

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, job: Waiting) -> None:
        """Add a job. A client without waiting jobs starts at the current account, so it can't save
        up time.
        """
        number = next(self._numbers)
        self._jobs[job.id] = (number, job)
        client = self._clients.get(job.client)
        if client is None:
            client = self._clients[job.client] = _Client(account=self._now)
        lane = client.lanes.setdefault(job.model, _Lane())
        heapq.heappush(lane.heap, (_due(job), number, job))
        self._bid(job.client, client, afresh=False)

    def remove(self, job_id: str) -> bool:
        """Remove a job; return False if it is not waiting."""
        entry = self._jobs.pop(job_id, None)
        if entry is None:
            return False
        name = entry[1].client
        self._bid(name, self._clients[name], afresh=False)
        return True

    def pop(self) -> Waiting:
        """Remove and return the next job.

        Raises:
            IndexError: no job is waiting.
        """
        job = self._take()
        if self._loaded.use(job.model):
            self._bids.clear()
            for name, client in list(self._clients.items()):
                self._bid(name, client)
        return job

    def head(self) -> Waiting | None:
        """Return the next job, if there is one; see `ahead`."""
        return self._twin()._take() if self._jobs else None

    def ahead(self) -> list[Waiting]:
        """Return the jobs in the order in which they would be taken if none were added.

        Assumes that the loaded models stay the same. If there are more models than the engine
        keeps, jobs of different models may actually be taken in another order.
        """
        twin = self._twin()
        return [twin._take() for _ in range(len(twin))]

    def _twin(self) -> FairOrder:
        """Return a copy of this order that can be consumed."""
        twin = FairOrder(self._loaded.copy())
        twin._now = self._now
        twin._jobs = self._jobs.copy()
        twin._clients = {
            name: _Client(
                client.account,
                {model: _Lane(lane.heap.copy()) for model, lane in client.lanes.items()},
                client.bid,
                client.next,
            )
            for name, client in self._clients.items()
        }
        twin._bids = self._bids.copy()
        twin._numbers = itertools.count(next(self._numbers))
        return twin

    def _take(self) -> Waiting:
        while self._bids:
            account, _, number, bid, name = heapq.heappop(self._bids)
            client = self._clients.get(name)
            if client is None or client.bid != bid:
                continue
            job = next(job for job in self._heads(client) if self._jobs[job.id][0] == number)
            del self._jobs[job.id]
            self._now = max(self._now, account)
            client.account = self._now
            self._bid(name, client)
            return job
        raise IndexError("nobody waits")

    def _heads(self, client: _Client) -> Iterator[Waiting]:
        """Yield the first job of each of the client's lanes, dropping removed jobs."""
        for model in list(client.lanes):
            heap = client.lanes[model].heap
            while heap and self._jobs.get(heap[0][2].id, (-1,))[0] != heap[0][1]:
                heapq.heappop(heap)
            if heap:
                yield heap[0][2]
            else:
                del client.lanes[model]

    def _bid(self, name: str, client: _Client, *, afresh: bool = True) -> None:
        """Enter the client's next job among the bids; forget a client that has none.

        ``afresh``: also if the job is the same, since its cost has changed.
        """
        best = min(
            (
                (_due(job) + STRETCH * self._loaded.wait_for(job), self._jobs[job.id][0], job)
                for job in self._heads(client)
            ),
            default=None,
        )
        if best is None:
            del self._clients[name]
            return
        due, number, job = best
        if number == client.next and not afresh:
            return
        client.next = number
        client.bid = next(self._numbers)
        account = client.account + _cost(job) + self._loaded.wait_for(job)
        heapq.heappush(self._bids, (account, due, number, client.bid, name))


def _cost(job: Waiting) -> float:
    return max(job.seconds, LEAST_SECONDS)


def _due(job: Waiting) -> float:
    return job.created + STRETCH * _cost(job)


def make_order(name: str, models_kept: int) -> Order:
    """Return the order that ``limits.scheduling`` names: ``fair`` or ``fifo``.

    Args:
        name: the setting.
        models_kept: how many models the engine keeps loaded; 0: it loads one for each job.
    """
    return FifoOrder() if name == "fifo" else FairOrder(LoadedModels(models_kept))


__all__ = [
    "LEAST_SECONDS",
    "STRETCH",
    "FairOrder",
    "FifoOrder",
    "LoadedModels",
    "Order",
    "Waiting",
    "make_order",
]
