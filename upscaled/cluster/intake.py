"""The intake of a worker: takes jobs from the queue as long as there is room for them.

It prefers jobs whose network the worker has loaded, see `upscaled.cluster.preference`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from upscaled.cluster import work_queue
from upscaled.cluster.held_jobs import HeldJobs
from upscaled.cluster.membership import Membership
from upscaled.cluster.preference import Preference
from upscaled.cluster.work_queue import Lease
from upscaled.errors import StoreUnavailableError, UnknownModelError
from upscaled.jobs.order import LoadedModels
from upscaled.jobs.postgres_database import Database
from upscaled.models.catalog import ModelCatalog
from upscaled.timing.timing import JobTiming

log = logging.getLogger(__name__)

_IDLE_SECONDS = 5.0
"""Seconds after which the queue is checked without a notification."""
_AGAIN_SECONDS = 1.0


class Intake:
    """Takes jobs for a worker.

    Args:
        database: where the queue is.
        models: the installed models.
        membership: the worker's.
        held: the jobs that it has, and begins.
        most: returns how many jobs it may hold.
        on_idle: called when it has room and no job waits that it can do.
    """

    def __init__(
        self,
        database: Database,
        models: ModelCatalog,
        membership: Membership,
        held: HeldJobs,
        most: Callable[[], int],
        on_idle: Callable[[], Awaitable[None]],
    ) -> None:
        self._database = database
        self._models = models
        self._membership = membership
        self._held = held
        self._most = most
        self._on_idle = on_idle
        self._news = asyncio.Event()
        self._hurries = False
        self._delays: dict[str, float] = {}
        self._preference = Preference(LoadedModels(0))
        self._timing: JobTiming | None = None
        self.taking = False
        """Whether a job is being taken, so that the database may know of a lease before we do."""

    def prefer_loaded(self, timing: JobTiming, models_kept: int) -> None:
        """From now on, prefer jobs whose network is loaded.

        Args:
            timing: knows how long it takes to load each.
            models_kept: how many networks the engine keeps loaded.
        """
        self._timing = timing
        self._preference = Preference(LoadedModels(models_kept))

    def look(self) -> None:
        """Look at the queue soon."""
        self._hurries = True
        self._news.set()

    def hear_of_work(self, model: str | None) -> None:
        """Look at the queue if the worker has this model; None: whatever it has.

        Workers that would have to load its network look later.
        """
        if model is None or any(known.name == model for known in self._models.models):
            self._hurries |= model is None or not self._delays.get(model)
            self._news.set()

    async def run(self) -> None:
        """Take jobs as long as there is room for them; runs until cancelled or drained."""
        while True:
            while len(self._held) >= self._most():
                self._held.freed.clear()
                await self._held.freed.wait()
            if self._membership.draining.is_set():
                return
            self._news.clear()
            self._hurries = False
            self.taking = True
            try:
                taken = await self._take_one()
            except StoreUnavailableError:
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            except Exception:
                log.exception("No job can be taken; it is tried again.")
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            finally:
                self.taking = False
                self._held.freed.set()
            if not taken:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_IDLE_SECONDS):
                        await self._news.wait()
                        await asyncio.sleep(self._membership.turn(hurries=self._hurries))

    async def _take_one(self) -> bool:
        models = [model.name for model in self._models.models]
        worker = self._membership.worker
        delays = self._delays = await self._find_delays()
        lease = await self._database.run(lambda c: work_queue.take(c, worker, models, delays))
        if lease is None:
            await self._on_idle()
            return False
        self._note(lease)
        self._held.begin(lease)
        return True

    async def _find_delays(self) -> dict[str, float]:
        """Return by how many seconds jobs of each model count as later, see `Preference`."""
        if self._timing is None:
            return {}
        seconds = {}
        for model in self._models.models:
            with contextlib.suppress(UnknownModelError):  # its files are gone
                seconds[model.name] = await self._timing.load_seconds(model)
        return self._preference.delays(seconds)

    def _note(self, lease: Lease) -> None:
        """Note which network will be loaded."""
        if self._timing is not None:
            with contextlib.suppress(UnknownModelError):  # the job will fail
                network = self._timing.work_of(lease.job).model.stem
                self._preference.took(network, lease.seconds, ahead=lease.ahead)

    async def drained(self) -> None:
        """Wait until the worker was asked to end and its jobs have ended."""
        await self._membership.draining.wait()
        self.wake()
        while len(self._held) or self.taking:
            self._held.freed.clear()
            await self._held.freed.wait()

    def wake(self) -> None:
        """Notice that the worker was asked to end."""
        self._news.set()
        self._held.freed.set()
