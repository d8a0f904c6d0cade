"""Membership: a process sends heartbeats, and rescues the jobs of members that fell silent."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from random import SystemRandom

from upscaled.cluster import members, work_queue
from upscaled.cluster.members import WORKER, Member, Seen
from upscaled.cluster.rescue import Rescuer
from upscaled.errors import StoreUnavailableError
from upscaled.jobs.postgres_database import Connection, Database

log = logging.getLogger(__name__)

_random = SystemRandom()
_BEATS = 4
"""Signs of life in the time of a lease."""
_LOOKS = 10
"""Looks at a namesake in the time of a lease."""
_TURN_SECONDS = 0.002


class Membership:
    """One process as a member of its cluster.

    Args:
        database: where members record their heartbeats.
        describe: returns what the member is at the moment.
        lease_seconds: how long it may be silent.
        rescuer: takes jobs from those who are silent for longer.
    """

    def __init__(
        self,
        database: Database,
        describe: Callable[[], Member],
        lease_seconds: float,
        rescuer: Rescuer,
    ) -> None:
        self._database = database
        self._describe = describe
        self._lease_seconds = lease_seconds
        self._rescuer = rescuer
        self._works = describe().role == WORKER
        self._heard_since: float | None = None
        self.worker = 0
        """A worker's number in the work queue."""
        self.others: list[Seen] = []
        """The running members, including this one."""
        self.draining = asyncio.Event()
        """Set when the member is asked to end after its jobs."""
        self.on_beat: Callable[[], Awaitable[None]] | None = None
        """Called after each sign of life."""

    async def join(self) -> None:
        """Become a member.

        If another process has the name, wait whether it falls silent.

        Raises:
            ConfigError: a setting contradicts that of a running member, or one has this name.
            StoreUnavailableError: the database does not answer.
        """
        member = self._describe()
        seen: list[float] = []

        async def enter(connection: Connection) -> int | None:
            await members.lock(connection)
            there = await members.present(connection, self._lease_seconds)
            namesakes = [one for one in there if one.member.id == member.id]
            for one in namesakes:
                if not self._is_gone(one, member):
                    seen.append(one.silent_seconds)
                    members.check_name(one, seen)
                    return None
            members.check_agreement(member, [one for one in there if one not in namesakes])
            worker = await work_queue.register(connection) if self._works else 0
            await members.join(connection, member, worker or None)
            return worker

        while (worker := await self._database.run(enter)) is None:  # noqa: ASYNC110 - its clock
            await asyncio.sleep(self._lease_seconds / _LOOKS)
        self.worker = worker
        await self.beat()

    def _is_gone(self, earlier: Seen, member: Member) -> bool:
        """Tell whether an earlier process of a name has ended."""
        return earlier.silent_seconds > 2 * self._lease_seconds / _BEATS or (
            earlier.member.host == member.host
            and earlier.member.pid != member.pid
            and not _runs(earlier.member.pid)
        )

    async def run(self) -> None:
        """Send heartbeats; runs until cancelled."""
        while True:
            # Not all at the same moment.
            await asyncio.sleep(self._lease_seconds / _BEATS * _random.uniform(0.8, 1.0))
            try:
                await self.beat()
                await self._rescue()
            except StoreUnavailableError:
                self._heard_since = None
            except Exception:
                self._heard_since = None
                log.exception("The cluster's members can't be read; it is tried again.")

    async def beat(self) -> None:
        """Send a heartbeat with the member's description.

        Raises:
            StoreUnavailableError: the database does not answer.
        """
        member = self._describe()

        async def show(connection: Connection) -> tuple[int, bool, list[Seen]]:
            worker = self.worker
            if self._works and not await work_queue.renew(connection, worker):
                worker = await work_queue.register(connection)
            draining = await members.write(connection, member, worker or None)
            return worker, draining, await members.present(connection, self._lease_seconds)

        worker, draining, self.others = await self._database.run(
            show, patience=self._lease_seconds / _BEATS
        )
        if self._works and worker != self.worker:
            log.warning("this worker was taken for lost, and is back")
            self.worker = worker
        if draining:
            self.draining.set()
        if self._heard_since is None:
            self._heard_since = time.monotonic()
        if self.on_beat is not None:
            await self.on_beat()

    async def _rescue(self) -> None:
        # A member that was cut off can't know whether others are silent or just were not heard.
        since = self._heard_since
        if since is not None and time.monotonic() - since > self._lease_seconds:
            await self._database.run(self._rescuer.rescue, patience=1.0)

    async def leave(self) -> None:
        """Stop being a member."""
        name = self._describe().id

        async def end(connection: Connection) -> None:
            await members.remove(connection, name)
            if self._works:
                await work_queue.unregister(connection, self.worker)

        try:
            await self._database.run(end, patience=2.0)
        except StoreUnavailableError:
            log.warning("the database does not answer; others notice the end of this member")

    def turn(self, *, hurries: bool) -> float:
        """Return how many seconds a worker waits before it asks for what all workers heard of.

        Each waits for up to `_TURN_SECONDS` for each worker of the cluster, so that they ask about
        once in that time, however many they are.

        Args:
            hurries: False: those that hurry go first.
        """
        longest = _TURN_SECONDS * len(self.workers())
        return _random.uniform(0, longest) + (0 if hurries else longest)

    def workers(self) -> list[Member]:
        """Return the running workers that take jobs."""
        return [one.member for one in self.others if one.member.role == WORKER and not one.draining]


def _runs(pid: int) -> bool:
    """Tell whether there is a process of this machine with this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
