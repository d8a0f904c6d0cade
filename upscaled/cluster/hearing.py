"""How a worker hears of work and of lost jobs: it is told in a small cluster, and asks in a large.

PostgreSQL wakes every session that listens, whatever it listens to, at each commit that notifies
anybody. So the cost of a job grows with the sessions that listen. From some number of workers on it
costs less that each of them asks once a second, and one of so many asks soon.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from upscaled.cluster.changes import LOST, WAITING, Changes
from upscaled.jobs.postgres_database import Connection
from upscaled.service.background import end_task, kept_running

_MOST_TOLD = 24
"""Workers of a cluster up to which all are told."""
_ASK_SECONDS = 1.0


class Hearing:
    """Tells a worker when to look at the queue, and at the jobs that it holds.

    Args:
        url: the database.
        workers: returns how many workers the cluster has.
        work: called with a model of which a job waits; None: there may be one.
        loss: called with the id of a job that may have been taken from its worker; None: each may.
    """

    def __init__(
        self,
        url: str,
        workers: Callable[[], int],
        *,
        work: Callable[[str | None], None],
        loss: Callable[[str | None], None],
    ) -> None:
        self._url = url
        self._workers = workers
        self._work = work
        self._loss = loss
        self._heard = {WAITING: work, LOST: loss}

    @property
    def _is_told(self) -> bool:
        return self._workers() <= _MOST_TOLD

    async def run(self) -> None:
        """Tell the worker; runs until cancelled."""
        while True:
            await self._listen()
            await self._ask()

    async def _listen(self) -> None:
        changes = Changes(self._url, self._heard, connected=self._connected)
        listening = asyncio.create_task(kept_running(changes.run, "changes"), name="changes")
        try:
            while self._is_told:  # noqa: ASYNC110 - it changes with a heartbeat
                await asyncio.sleep(_ASK_SECONDS)
        finally:
            await end_task(listening)

    async def _ask(self) -> None:
        while not self._is_told:
            self._work(None)
            self._loss(None)
            await asyncio.sleep(_ASK_SECONDS)

    async def _connected(self, _: Connection) -> None:
        self._work(None)
