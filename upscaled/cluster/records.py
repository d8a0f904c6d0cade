"""Job records as API servers and workers write them; the row decides who may write what."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg

from upscaled.blobs.blobs import Blobs, digest
from upscaled.cluster import keys, work_queue
from upscaled.cluster.work_queue import Lease, Record
from upscaled.errors import StoreUnavailableError
from upscaled.jobs import postgres_outbox
from upscaled.jobs.job import ACTIVE, TERMINAL, Job, JobState
from upscaled.jobs.postgres_database import Connection, Database
from upscaled.jobs.postgres_store import (
    PostgresJobStore,
    delete_job,
    insert_job,
    insert_key,
    update_job,
)
from upscaled.jobs.registry import MessageWriter
from upscaled.jobs.store import SubmissionKey
from upscaled.jobs.webhook_messages import Message

log = logging.getLogger(__name__)

TAKEN = "job was taken from this worker"
_AGAIN_SECONDS = 1.0
FIRST_COST = 1.0
"""Seconds of work that a job counts for until there is an estimate."""


class SupersededError(Exception):
    """The record has changed, so the job can't enter this state any more."""


class _LinkedStore(PostgresJobStore):
    """A store whose database is opened and closed by its `Link`."""

    async def open(self) -> None:
        """Nothing: the database is open."""

    async def close(self) -> None:
        """Finish pending writes."""
        while self._writes:
            await asyncio.wait(self._writes)


class SharedJobStore(_LinkedStore):
    """The records as API servers write them: new jobs, cancellations, and what becomes of results.

    Times are the database's. A new job gets its place in the order and its queue entry in the
    transaction that adds it.

    Args:
        database: where the records are.
        messages: the messages that a job's state calls for.
        fair: clients share the workers; else first come, first served.
    """

    def __init__(self, database: Database, messages: MessageWriter, *, fair: bool) -> None:
        super().__init__(database)
        self._messages = messages
        self._fair = fair
        self.cost: Callable[[Job], Awaitable[float]] | None = None
        """Returns the seconds that a job's work takes."""

    async def put(
        self,
        job: Job,
        key: SubmissionKey | None = None,
        *,
        messages: Sequence[Message] = (),
    ) -> None:
        """Add a job, cancel it, or record what became of its result.

        ``messages`` follow from the record, and are written anew.

        Raises:
            KeyTakenError: the owner has this key already. Nothing is written.
            SupersededError: the record no longer allows this. Nothing is written.
        """
        cost = FIRST_COST
        if job.state is JobState.QUEUED and self.cost is not None:
            cost = await self.cost(job)

        async def write(connection: Connection) -> None:
            record = await work_queue.locked(connection, job.id)
            if record is not None:
                await self._change(connection, record, job)
            elif job.state is JobState.QUEUED:
                await self._add(connection, job, key, cost)
            else:
                raise SupersededError(job.id)

        await self._in_order(job.id, write)

    async def _add(
        self, connection: Connection, job: Job, key: SubmissionKey | None, cost: float
    ) -> None:
        job = replace(job, created=await work_queue.clock(connection))
        tag = await work_queue.start_tag(connection, job.client, cost) if self._fair else 0.0
        entry = await work_queue.add(connection, job, tag)
        await insert_job(connection, job, queue_entry=entry, cost=cost, tag=tag)
        if key is not None:
            await insert_key(connection, key)
        await postgres_outbox.insert(connection, self._messages(job))

    async def _change(self, connection: Connection, record: Record, job: Job) -> None:
        before = record.job
        if job.state is JobState.CANCELLED and before.state in ACTIVE:
            job = before.to(JobState.CANCELLED, finished=record.now, client="")
            await work_queue.withdraw(connection, record.queue_entry)
        elif job.state in TERMINAL and job.state is before.state:
            # Another server may have recorded a later change of the same result.
            job = replace(
                before,
                delivered=before.delivered or job.delivered,
                result_gone=before.result_gone or job.result_gone,
            )
        elif job.state is JobState.QUEUED and before.id == job.id and before.state in ACTIVE:
            return  # the transaction that added it is repeated
        else:
            raise SupersededError(job.id)
        if job != before:
            await update_job(connection, job)
            await postgres_outbox.insert(connection, self._messages(job))

    async def delete(self, job_id: str) -> None:
        async def erase(connection: Connection) -> None:
            record = await work_queue.locked(connection, job_id)
            if record is not None:
                await work_queue.withdraw(connection, record.queue_entry)
            await delete_job(connection, job_id)

        await self._in_order(job_id, erase)


@dataclass
class HeldJob:
    """A job that a worker does."""

    lease: Lease
    lost: bool = False
    """The job is no longer this worker's."""


class WorkerJobStore(_LinkedStore):
    """The records as a worker writes them: those of the jobs that it holds.

    What it does for a job that was taken from it is dropped.

    Args:
        database: where the records are.
        blobs: where results go before their job is recorded as completed.
        result: returns the file of a finished result.
        messages: the messages that a job's state calls for.
        on_lost: called with the id of a job that is no longer this worker's.
    """

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        result: Callable[[Job], Path],
        messages: MessageWriter,
        on_lost: Callable[[str], None],
    ) -> None:
        super().__init__(database)
        self._blobs = blobs
        self._result = result
        self._messages = messages
        self._on_lost = on_lost
        self.held: dict[str, HeldJob] = {}
        """The jobs that the worker does, by id."""
        self.ended: Counter[str] = Counter()
        """Jobs whose end the worker recorded, by their state."""

    async def put(
        self,
        job: Job,
        key: SubmissionKey | None = None,
        *,
        messages: Sequence[Message] = (),
    ) -> None:
        """Record the state of a held job; an end is tried until the database takes it.

        Raises:
            NoSpaceError: the blobs are full.
            StoreUnavailableError: the database does not answer, and the job has not ended.
        """
        held_job = self.held.get(job.id)
        if held_job is None or held_job.lost or job.state is JobState.CANCELLED:
            return
        while True:
            try:
                if job.state is JobState.COMPLETED and not job.result_key:
                    job = await self._with_stored_result(job, held_job.lease)
                await self._record(job, held_job)
            except (StoreUnavailableError, psycopg.Error) as error:
                # The database may also refuse, for example for lack of a right, which its owner can
                # mend. The work is done and must not be lost.
                if job.state is JobState.QUEUED:
                    log.warning("job can't be put back; others notice", extra={"job": job.id})
                    return
                if job.state not in TERMINAL:
                    raise
                log.warning(
                    "job's end waits for the stores",
                    extra={"job": job.id, "reason": str(error)},
                )
                await asyncio.sleep(_AGAIN_SECONDS)
                if self._is_lost(held_job):
                    return
            else:
                return

    async def forgive(self, lease: Lease) -> None:
        """Record that no worker was lost through this job so far: the last one finished bands.

        Raises:
            StoreUnavailableError: the database does not answer.
        """

        def corrected(record: Record) -> Job | None:
            own = record.lease_number == lease.number
            return replace(record.job, crashes=0) if own else None

        await self._correct(lease.job.id, corrected)

    async def survived(self, lease: Lease) -> None:
        """Record that this worker was not lost through a job that was taken from it.

        Raises:
            StoreUnavailableError: the database does not answer.
        """

        def corrected(record: Record) -> Job | None:
            crashes = record.job.crashes
            taken = record.lease_number > lease.number and crashes > lease.job.crashes
            return replace(record.job, crashes=crashes - 1) if taken else None

        await self._correct(lease.job.id, corrected)

    async def _correct(self, job_id: str, corrected: Callable[[Record], Job | None]) -> None:
        """Change the record of a job that has not ended, if ``corrected`` returns another one."""

        async def write(connection: Connection) -> None:
            record = await work_queue.locked(connection, job_id)
            if record is None or record.job.state not in ACTIVE:
                return
            job = corrected(record)
            if job is not None:
                await update_job(connection, job)

        await self._in_order(job_id, write)

    def _is_lost(self, held_job: HeldJob) -> bool:
        """Tell whether the job was taken from the worker meanwhile."""
        return held_job.lost

    async def _with_stored_result(self, job: Job, lease: Lease) -> Job:
        """Store the result, and read it back."""
        key = keys.result(job, lease.number)
        await self._blobs.put(key, self._result(job))
        found = await digest(self._blobs, key)
        if found != job.receipt["output"]["sha256"]:
            raise StoreUnavailableError(
                f"The result that was stored as {key} came back with the digest {found}."
            )
        return replace(job, result_key=key)

    async def _record(self, job: Job, held_job: HeldJob) -> None:
        async def write(connection: Connection) -> bool:
            record = await work_queue.locked(connection, job.id)
            if record is None or record.lease_number != held_job.lease.number:
                return False
            if record.job.state not in ACTIVE:  # or the transaction is repeated
                return record.job.state is job.state
            await self._write(connection, record, job)
            return True

        held: list[bool] = []

        async def write_and_tell(connection: Connection) -> None:
            held[:] = [await write(connection)]

        await self._in_order(job.id, write_and_tell)
        if held[0] and job.state in TERMINAL:
            self.ended[job.state.value] += 1
        if not held[0]:
            held_job.lost = True
            log.warning(TAKEN, extra={"job": job.id})
            self._on_lost(job.id)

    async def _write(self, connection: Connection, record: Record, job: Job) -> None:
        before = record.job
        began = job.state is JobState.PROCESSING and before.state is JobState.QUEUED
        job = replace(
            job,
            created=before.created,
            crashes=before.crashes,
            started=record.now if began else before.started,
            finished=record.now if job.state in TERMINAL else None,
        )
        if job.state in TERMINAL:
            await work_queue.withdraw(connection, record.queue_entry)
        await update_job(connection, job)
        await postgres_outbox.insert(connection, self._messages(job))
