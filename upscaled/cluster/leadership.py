"""Leadership: one API server at a time does the work that is done once for all jobs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

import psycopg

from upscaled.service.background import Work, run_in_background

log = logging.getLogger(__name__)

_LOCK = 0x75707370
"""Key of the lock that the leader's session holds."""
_ANSWER_SECONDS = 10.0

Duties = Callable[[], list[tuple[str, Work]]]
"""Returns the leader's work, each with a name; each runs until it is cancelled."""


class Leadership:
    """Waits to become the leader, and does its duties until the session with the database ends.

    PostgreSQL gives the lock back when it notices the end of the session, so after a partition two
    leaders may overlap for a moment. The duties must bear that.

    Args:
        url: the database.
        duties: the leader's work.
        seconds: between two checks of whether there is a leader, and whether the session is alive.
    """

    def __init__(self, url: str, duties: Duties, seconds: float) -> None:
        self._url = url
        self._duties = duties
        self._seconds = seconds
        self.leads = False

    async def run(self) -> None:
        """Lead whenever no other server does; runs until cancelled."""
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    self._url, autocommit=True, connect_timeout=5
                ) as connection:
                    await self._wait(connection)
                    await self._lead(connection)
            except (psycopg.Error, OSError, TimeoutError) as error:
                log.debug("no leadership", extra={"reason": str(error).strip()})
            await asyncio.sleep(min(1.0, self._seconds))

    async def _wait(self, connection: psycopg.AsyncConnection[Any]) -> None:
        while True:
            async with asyncio.timeout(_ANSWER_SECONDS):
                found = await connection.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK,))
                row = await found.fetchone()
            if row == (True,):
                return
            await asyncio.sleep(self._seconds)

    async def _lead(self, connection: psycopg.AsyncConnection[Any]) -> None:
        log.info("this server leads: it cleans up and sends messages")
        self.leads = True
        try:
            async with contextlib.AsyncExitStack() as closing:
                for name, work in self._duties():
                    run_in_background(closing, work, name)
                while True:
                    await asyncio.sleep(self._seconds)
                    async with asyncio.timeout(_ANSWER_SECONDS):
                        await connection.execute("SELECT 1")
        finally:
            self.leads = False
