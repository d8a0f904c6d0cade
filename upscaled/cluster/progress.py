"""Progress of a worker's jobs, sent to the API servers a few times a second."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from upscaled import serial
from upscaled.cluster.changes import PROGRESS
from upscaled.errors import UpscaledError
from upscaled.jobs.job import JobState
from upscaled.jobs.postgres_database import Connection, Database
from upscaled.jobs.registry import JobRegistry
from upscaled.jobs.updates import JobUpdate, LaggedError, Stage

log = logging.getLogger(__name__)

_PERIOD_SECONDS = 0.3
_JOBS_AT_ONCE = 40
"""A notification holds 8000 bytes."""


@dataclass(frozen=True)
class JobProgress:
    """How far a job is."""

    job_id: str
    percent: int
    stage: Stage | None = None


async def report_progress(registry: JobRegistry, database: Database) -> None:
    """Tell the progress of all jobs of a worker's ``registry``; runs until cancelled.

    What the database does not take is sent the next time.
    """
    while True:
        try:
            async with registry.subscribe_all() as updates:
                waiting: dict[str, JobProgress] = {}
                while True:
                    _note(await anext(updates), waiting)
                    await asyncio.sleep(_PERIOD_SECONDS)  # a job that ends soon needs no report
                    while not updates.empty:
                        _note(await anext(updates), waiting)
                    if waiting:
                        await _send(database, list(waiting.values()))
                        waiting.clear()
        except LaggedError:
            continue
        except UpscaledError as error:
            log.debug("progress is not told", extra={"reason": error.message})
            await asyncio.sleep(1.0)


def _note(update: JobUpdate, waiting: dict[str, JobProgress]) -> None:
    job = update.job
    if job.state is JobState.PROCESSING:
        waiting[job.id] = JobProgress(job.id, job.progress, update.stage)
    else:
        waiting.pop(job.id, None)


async def _send(database: Database, reports: list[JobProgress]) -> None:
    async def write(connection: Connection) -> None:
        # No commit waits for the disk: a crash may lose this.
        await connection.execute("SET LOCAL synchronous_commit = off")
        for start in range(0, len(reports), _JOBS_AT_ONCE):
            some = tuple(reports[start : start + _JOBS_AT_ONCE])
            await connection.execute(
                "SELECT pg_notify(%s, %s)", (PROGRESS, serial.encode(some).decode())
            )

    await database.run(write, patience=2.0)
