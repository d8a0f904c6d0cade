"""Rescue: jobs of workers that fell silent go to others, or fail after too many attempts."""

from __future__ import annotations

import logging
from dataclasses import replace

from upscaled.cluster import work_queue
from upscaled.jobs import postgres_outbox
from upscaled.jobs.job import ACTIVE, JobState
from upscaled.jobs.postgres_database import Connection
from upscaled.jobs.postgres_store import update_job
from upscaled.jobs.registry import MessageWriter

log = logging.getLogger(__name__)

_LEAST_LOST = 2
"""A worker may be lost for many reasons, such as its machine or network, and one loss does not tell
whether the picture is one. So each job is given to another worker once, whatever the setting."""
_LOCK = 0x7570736F
"""Key of the lock under which one member at a time looks for lost workers."""


class Rescuer:
    """Takes jobs from workers that have been silent for a lease.

    Args:
        lease_seconds: how long a worker may be silent.
        max_crashes: how many workers may be lost while they do a job; two at least may.
        messages: the messages that a job's state calls for.
    """

    def __init__(self, lease_seconds: float, max_crashes: int, messages: MessageWriter) -> None:
        self._lease_seconds = lease_seconds
        self._most = max(_LEAST_LOST, max_crashes)
        self._messages = messages

    async def rescue(self, connection: Connection) -> list[str]:
        """Rescue the jobs of silent workers; return their ids.

        Do nothing until the database has been running for a lease: until then, no worker could send
        heartbeats.
        """
        found = await connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (_LOCK,))
        if await found.fetchone() != (True,):
            return []
        if await work_queue.up_since(connection) < self._lease_seconds:
            return []
        lost = await work_queue.lost(connection, self._lease_seconds)
        for job_id in lost:
            await self._take_back(connection, job_id)
        return lost

    async def _take_back(self, connection: Connection, job_id: str) -> None:
        record = await work_queue.locked(connection, job_id)
        if record is None or record.queue_entry is None or record.job.state not in ACTIVE:
            return
        crashes = record.job.crashes + 1
        if crashes >= self._most:
            job = record.job.to(
                JobState.FAILED,
                finished=record.now,
                client="",
                crashes=crashes,
                error=f"The worker that did this picture was lost {crashes} times; it is not tried "
                "again (upscaler.max_crashes).",
            )
            await work_queue.withdraw(connection, record.queue_entry)
        else:
            job = replace(
                record.job, state=JobState.QUEUED, progress=0, device=None, started=None,
                crashes=crashes,
            )  # fmt: skip
            await work_queue.give_back(connection, record.queue_entry)
        await connection.execute(
            "UPDATE jobs SET attempt = attempt + 1, worker = NULL WHERE id = %s", (job_id,)
        )
        await update_job(connection, job)
        await postgres_outbox.insert(connection, self._messages(job))
        log.warning(
            "job taken from a lost worker",
            extra={"job": job_id, "crashes": crashes, "state": job.state.value},
        )
