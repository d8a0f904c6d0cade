"""Health of a cluster as an API server reports it: workers that can upscale, and the files."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from upscaled.blobs.marked import MarkedBlobs
from upscaled.cluster import members
from upscaled.cluster.members import SERVER, WORKER, Member, Seen
from upscaled.errors import StoreUnavailableError
from upscaled.jobs.postgres_database import Connection, Database
from upscaled.service.background import end_task
from upscaled.service.figures import Figures, WorkerFigures
from upscaled.service.health import Health, HealthState
from upscaled.service.reports import Reports

_BLOBS_SECONDS = 5.0
_LOOK_SECONDS = 1.0
"""How long a caller who asks for the health waits for the database."""
_SILENT = (
    "The database does not answer now. Jobs that workers have go on; what is said of the workers "
    "is from before."
)
_NOBODY = (
    "No worker is there, so jobs wait. Start `upscaled work` on a machine that is to upscale, with "
    "the same cluster.database_url and cluster.blobs."
)


class WorkersHealth(Health):
    """`Health` of the workers, as they report it themselves, and of the shared files.

    Args:
        database: knows the members.
        blobs: the files.
        lease_seconds: how long a worker may be silent.
    """

    def __init__(self, database: Database, blobs: MarkedBlobs, lease_seconds: float) -> None:
        super().__init__(_no_test, lambda: True)
        self._database = database
        self._blobs = blobs
        self._blobs_fault: str | None = None
        self._lease_seconds = lease_seconds
        self.workers: list[Member] = []
        """Those that take jobs."""
        self.members: list[Member] = []
        """All that are there, servers and workers that drain too."""
        self._looking: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Look at workers and files periodically; runs until cancelled."""
        while True:
            await self._look_at_blobs()
            await self.look()
            await asyncio.sleep(self._lease_seconds / 2)

    async def _look_at_blobs(self) -> None:
        try:
            async with asyncio.timeout(_BLOBS_SECONDS):
                await self._blobs.check()
        except StoreUnavailableError as error:
            self._blobs_fault = error.message
        except TimeoutError:
            self._blobs_fault = f"The shared files do not answer within {_BLOBS_SECONDS:g} s."
        else:
            self._blobs_fault = None

    async def look(self) -> None:
        """Look at the workers; who calls meanwhile shares the look.

        It goes on when its caller is cancelled, since a silent database takes long to give up.
        """
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(), name="look at members")
            self._looking.add_done_callback(self._looked)
        await asyncio.shield(self._looking)

    def _looked(self, task: asyncio.Task[None]) -> None:
        self._looking = None
        if not task.cancelled():
            task.exception()  # marks it as retrieved: the caller may be gone

    async def look_briefly(self) -> None:
        """Look at the workers for as long as a caller waits; a silent database is a fault."""
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                await self.look()
        except TimeoutError:
            self.state, self.reason = HealthState.FAILING, _SILENT

    async def close(self) -> None:
        """End a look that is under way."""
        if self._looking is not None:
            await end_task(self._looking)

    async def _look(self) -> None:
        async def read(connection: Connection) -> list[Seen]:
            return await members.present(connection, self._lease_seconds)

        try:
            there = await self._database.run(read, patience=0.8)
        except StoreUnavailableError as error:
            self.state, self.reason = HealthState.FAILING, error.message
        else:
            self.members = [one.member for one in there]
            self.workers = [
                one.member for one in there if one.member.role == WORKER and not one.draining
            ]
            self.state, self.reason = _summary(self.workers)
            if self._blobs_fault is not None:
                self.state, self.reason = HealthState.FAILING, self._blobs_fault
        self._known.set()


async def _no_test() -> Any:
    raise AssertionError("an API server tests no device")


def _summary(workers: list[Member]) -> tuple[HealthState, str | None]:
    states = {worker.state for worker in workers}
    if not workers:
        return HealthState.FAILING, _NOBODY
    if HealthState.OK in states:
        return HealthState.OK, None
    if HealthState.STARTING in states:
        return HealthState.STARTING, None
    return HealthState.FAILING, next((w.reason for w in workers if w.reason), None)


class WorkersReports(Reports):
    """`Reports` of a cluster.

    Args:
        workers: the health of the workers.
        parts: those of `Reports`.
    """

    def __init__(self, workers: WorkersHealth, **parts: Any) -> None:
        super().__init__(**parts)
        self._workers = workers

    async def health(self) -> Mapping[str, object]:
        await self._workers.look_briefly()
        told = dict(await super().health())
        there = self._workers.workers
        on_gpu = any(worker.gpu for worker in there)
        return {
            **told,
            "engine": there[0].engine if there else told["engine"],
            "devices": sorted({name for worker in there for name in worker.devices}),
            "gpu": on_gpu,
            "cpu_fallback": False,
            "workers": len(there),
        }

    def figures(self) -> Figures:
        """Return the state of the cluster in numbers, as it was at the latest look."""
        there = self._workers.members
        workers = {
            one.id: WorkerFigures(len(one.jobs), one.ended, one.busy_seconds)
            for one in there
            if one.role == WORKER
        }
        return replace(
            super().figures(),
            slots=sum(one.slots for one in self._workers.workers),
            workers=workers,
            members={SERVER: len(there) - len(workers), WORKER: len(workers)},
        )
