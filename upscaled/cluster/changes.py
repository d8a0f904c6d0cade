"""Changes: hears what other members of a cluster record, through LISTEN/NOTIFY."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import LiteralString

import psycopg

from upscaled import serial
from upscaled.jobs.job import Job
from upscaled.jobs.postgres_database import Connection
from upscaled.jobs.postgres_store import JobVersion

log = logging.getLogger(__name__)

JOBS: LiteralString = "upscaled_jobs"
"""A job's record has changed, see `told_version`."""
WAITING: LiteralString = "upscaled_waiting"
"""A job waits for a worker; the payload is its model."""
LOST: LiteralString = "upscaled_taken"
"""A job was cancelled or taken from its worker; the payload is its id."""
PROGRESS: LiteralString = "upscaled_progress"
"""How far jobs are, as JSON."""

_QUIET_SECONDS = 5.0
"""Seconds without a notification after which the connection is tested: the server may be gone."""
_ANSWER_SECONDS = 10.0
_AGAIN_SECONDS = (0.1, 0.5, 1.0)

_DELETED = "deleted"

Heard = Callable[[str], None]


def told_version(payload: str) -> tuple[str, JobVersion | None, bool]:
    """Return what a notification of `JOBS` says.

    That is the job's id, its record unless it was too long to be sent, and whether it was deleted.

    Raises:
        ValueError: a later version of the program wrote it.
    """
    job_id, _, rest = payload.partition(" ")
    if rest in {"", _DELETED}:
        return job_id, None, rest == _DELETED
    revision, tag, document = rest.split(" ", 2)
    return job_id, JobVersion(serial.decode(document, Job), int(revision), float(tag)), False


class Changes:
    """Listens to channels on a connection of its own, which is made anew when it breaks.

    Args:
        url: the database.
        heard: what is called with each payload, by channel.
        connected: called when the connection is made. Earlier notifications may have been missed.
            While it runs, notifications wait.
        disconnected: called when the connection breaks.
    """

    def __init__(
        self,
        url: str,
        heard: Mapping[LiteralString, Heard],
        *,
        connected: Callable[[Connection], Awaitable[None]],
        disconnected: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._url = url
        self._heard = heard
        self._connected = connected
        self._disconnected = disconnected

    async def run(self) -> None:
        """Listen until cancelled."""
        failures = 0
        while True:
            try:
                connection = await psycopg.AsyncConnection.connect(
                    self._url,
                    autocommit=True,
                    connect_timeout=5,
                    keepalives_idle=5,
                    keepalives_interval=2,
                    keepalives_count=3,
                )
                try:
                    async with connection:
                        await self._listen(connection)
                        failures = 0
                        await self._hear(connection)
                finally:
                    if self._disconnected is not None:
                        await self._disconnected()
            except (psycopg.Error, OSError, TimeoutError) as error:
                if not failures:
                    log.warning(
                        "the database's notifications are lost; trying again",
                        extra={"reason": str(error).strip()},
                    )
            await asyncio.sleep(_AGAIN_SECONDS[min(failures, len(_AGAIN_SECONDS) - 1)])
            failures += 1

    async def _listen(self, connection: Connection) -> None:
        for channel in self._heard:
            statement: LiteralString = f"LISTEN {channel}"
            await connection.execute(statement)
        await self._connected(connection)

    async def _hear(self, connection: Connection) -> None:
        while True:
            quiet = True
            async with contextlib.aclosing(connection.notifies(timeout=_QUIET_SECONDS)) as told:
                async for one in told:
                    quiet = False
                    self._heard[one.channel](one.payload)
            if quiet:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await connection.execute("SELECT 1")
