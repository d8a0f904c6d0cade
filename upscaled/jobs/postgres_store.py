"""Job records in PostgreSQL, for several machines; see docs/scaling.md."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import LiteralString
from weakref import WeakValueDictionary

import psycopg

from upscaled import serial
from upscaled.jobs import postgres_outbox, store
from upscaled.jobs.job import Job, JobState
from upscaled.jobs.postgres_database import LONG_SECONDS, Connection, Database, Work
from upscaled.jobs.postgres_schema import migrate
from upscaled.jobs.store import JobFilter, KeyTakenError, SubmissionKey
from upscaled.jobs.webhook_messages import Message, PendingJob

DELETIONS: LiteralString = "upscaled_deletions"
"""The channel that tells of deleted jobs; the payload is the id and the owner, as JSON."""
_INSERT: LiteralString = """
    INSERT INTO jobs (id, state, created, finished, has_result, document, owner, model, client_ref,
        client, delivery, cost, tag)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
_PUT: LiteralString = (
    _INSERT
    + """
    ON CONFLICT (id) DO UPDATE SET state = excluded.state, created = excluded.created,
        finished = excluded.finished, has_result = excluded.has_result,
        document = excluded.document, owner = excluded.owner, model = excluded.model,
        client_ref = excluded.client_ref, client = excluded.client
"""
)


@dataclass(frozen=True, slots=True)
class JobVersion:
    """A job's record after one of its changes."""

    job: Job
    revision: int
    """Grows with each change."""
    tag: float
    """The job's place in the order."""


class PostgresJobStore:
    """The `JobStore` of a cluster.

    Args:
        database: where the records are. `open` connects it, `close` disconnects it.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._order: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._writes: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Connect and migrate the schema.

        Raises:
            ConfigError: the URL is wrong, or a later version of the program wrote the records.
            StoreUnavailableError: the server does not answer.
        """
        await self.database.open()
        try:
            await self.database.run(migrate, seconds=LONG_SECONDS)
        except BaseException:
            await self.database.close()
            raise

    async def close(self) -> None:
        """Finish pending writes and disconnect."""
        while self._writes:
            await asyncio.wait(self._writes)
        await self.database.close()

    async def put(
        self,
        job: Job,
        key: SubmissionKey | None = None,
        *,
        messages: Sequence[Message] = (),
    ) -> None:
        """Insert or replace the job, with its key and its messages."""
        row = (*row_of(job), None, 0.0, 0.0)

        async def write(connection: Connection) -> None:
            await connection.execute(_PUT, row)
            if key is not None:
                await insert_key(connection, key)
            if messages:
                await postgres_outbox.insert(connection, messages)

        await self._in_order(job.id, write)

    async def _in_order(self, job_id: str, write: Work[None]) -> None:
        """Run a transaction that changes a job, after those that were begun before."""

        async def in_turn() -> None:
            async with self._lock(job_id):
                await self.database.run(write)

        writing = asyncio.create_task(in_turn(), name=f"put-{job_id}")
        self._writes.add(writing)
        writing.add_done_callback(self._writes.discard)
        # Shielded: what a cancelled caller began is written all the same.
        await asyncio.shield(writing)

    def _lock(self, job_id: str) -> asyncio.Lock:
        """Return the lock that keeps the writes of a job in their order."""
        lock = self._order.get(job_id)
        if lock is None:
            lock = self._order[job_id] = asyncio.Lock()
        return lock

    async def key(self, owner: str, key: str) -> SubmissionKey | None:
        found = await self._keys("WHERE owner = %s AND key = %s", (owner, key))
        return found[0] if found else None

    async def keys_of(self, job_id: str) -> list[SubmissionKey]:
        return await self._keys("WHERE job_id = %s ORDER BY created", (job_id,))

    async def _keys(
        self, condition: LiteralString, values: Sequence[object]
    ) -> list[SubmissionKey]:
        query: LiteralString = (
            "SELECT owner, key, fingerprint, job_id, created FROM submission_keys " + condition
        )

        async def read(connection: Connection) -> list[SubmissionKey]:
            found = await connection.execute(query, values)
            return [SubmissionKey(*row) for row in await found.fetchall()]

        return await self.database.run(read)

    async def forget_keys(self, before: float) -> None:
        async def erase(connection: Connection) -> None:
            await connection.execute("DELETE FROM submission_keys WHERE created < %s", (before,))

        await self.database.run(erase)

    async def get(self, job_id: str) -> Job | None:
        jobs = await self._select("WHERE id = %s", (job_id,))
        return jobs[0] if jobs else None

    async def in_states(self, states: Collection[JobState]) -> list[Job]:
        return await self._select(
            "WHERE state = ANY(%s) ORDER BY created", ([state.value for state in states],)
        )

    async def finished_before(self, moment: float, *, with_result: bool) -> list[Job]:
        """Return jobs that ended before ``moment``, oldest first."""
        wanted = [True] if with_result else [True, False]
        return await self._select(
            "WHERE has_result = ANY(%s) AND finished < %s ORDER BY finished", (wanted, moment)
        )

    async def page(
        self, wanted: JobFilter, after: tuple[float, str] | None, limit: int
    ) -> list[Job]:
        """Return the jobs that ``wanted`` matches, newest first, ``limit`` at most."""
        terms: dict[LiteralString, object] = {
            "owner = %s": wanted.owner,
            "state = %s": wanted.state and wanted.state.value,
            "model = %s": wanted.model,
            "client_ref = %s": wanted.client_ref,
            "created > %s": wanted.created_after,
            "created < %s": wanted.created_before,
        }
        given = {term: value for term, value in terms.items() if value is not None}
        if any(isinstance(v, str) and v != postgres_outbox.storable(v) for v in given.values()):
            return []  # no record has such a text
        condition: LiteralString = " AND ".join(given)
        values = list(given.values())
        if after is not None:
            condition += " AND (created, id) < (%s, %s)"
            values += after
        return await self._select(
            "WHERE " + condition + " ORDER BY created DESC, id DESC LIMIT %s", (*values, limit)
        )

    async def delete(self, job_id: str) -> None:
        async def erase(connection: Connection) -> None:
            await delete_job(connection, job_id)

        await self._in_order(job_id, erase)

    async def messages_of(self, job_id: str) -> list[Message]:
        return await self.database.run(lambda c: postgres_outbox.of_job(c, job_id))

    async def next_message(self, job_id: str) -> Message | None:
        return await self.database.run(lambda c: postgres_outbox.next_of_job(c, job_id))

    async def pending_jobs(self) -> list[PendingJob]:
        return await self.database.run(postgres_outbox.pending_jobs)

    async def count_pending(self, owner: str) -> int:
        return await self.database.run(lambda c: postgres_outbox.count_pending(c, owner))

    async def settle(self, message: Message) -> None:
        await self.database.run(lambda c: postgres_outbox.settle(c, message))

    async def load_rates(self) -> dict[str, str]:
        """Return how long work took, by key; see `RateStore`."""

        async def read(connection: Connection) -> dict[str, str]:
            found = await connection.execute("SELECT key, document FROM rates")
            return {str(key): str(document) for key, document in await found.fetchall()}

        return await self.database.run(read)

    async def save_rates(self, rates: Mapping[str, str]) -> None:
        """Insert or replace rates; of several members that measured one, the latest stays."""

        async def write(connection: Connection) -> None:
            async with connection.cursor() as cursor:
                await cursor.executemany(
                    "INSERT INTO rates VALUES (%s, %s) ON CONFLICT (key) DO UPDATE "
                    "SET document = excluded.document",
                    sorted(rates.items()),
                )

        await self.database.run(write)

    async def versions(self, job_ids: Collection[str]) -> dict[str, JobVersion]:
        """Return jobs by id as they are now, as far as there are records of them."""

        async def read(connection: Connection) -> dict[str, JobVersion]:
            found = await connection.execute(
                "SELECT revision, tag, document FROM jobs WHERE id = ANY(%s)", (list(job_ids),)
            )
            rows = [
                JobVersion(serial.decode(document, Job), int(revision), float(tag))
                for revision, tag, document in await found.fetchall()
            ]
            return {version.job.id: version for version in rows}

        return await self.database.run(read)

    async def _select(self, condition: LiteralString, values: Sequence[object]) -> list[Job]:
        async def read(connection: Connection) -> list[Job]:
            found = await connection.execute("SELECT document FROM jobs " + condition, values)
            return [serial.decode(document, Job) for (document,) in await found.fetchall()]

        return await self.database.run(read)


def row_of(job: Job) -> tuple[object, ...]:
    """Return the values of a job's columns, in the order of the table."""
    return (
        job.id,
        job.state.value,
        job.created,
        job.finished,
        job.state is JobState.COMPLETED and job.result_gone is None,
        serial.encode(job).decode(),
        job.owner,
        job.request.model_name,
        postgres_outbox.storable(job.client_ref),
        job.client,
    )


async def insert_job(
    connection: Connection, job: Job, *, queue_entry: int | None, cost: float, tag: float
) -> None:
    """Insert a new job.

    Args:
        connection: in a transaction.
        job: the job.
        queue_entry: its number in procrastinate's table; None for one that has ended.
        cost: seconds of work that it counts for.
        tag: its place in the order.
    """
    await connection.execute(_INSERT, (*row_of(job), queue_entry, cost, tag))


async def update_job(connection: Connection, job: Job) -> None:
    """Replace the record of a job that there is."""
    job_id, *values = row_of(job)
    await connection.execute(
        "UPDATE jobs SET state = %s, created = %s, finished = %s, has_result = %s, document = %s, "
        "owner = %s, model = %s, client_ref = %s, client = %s WHERE id = %s",
        (*values, job_id),
    )


async def delete_job(connection: Connection, job_id: str) -> None:
    """Delete a job's record, its messages and the keys that stand for it; notify listeners."""
    found = await connection.execute("DELETE FROM jobs WHERE id = %s RETURNING owner", (job_id,))
    if (row := await found.fetchone()) is not None:
        payload = serial.encode((job_id, row[0])).decode()
        await connection.execute("SELECT pg_notify(%s, %s)", (DELETIONS, payload))
    await connection.execute("DELETE FROM submission_keys WHERE job_id = %s", (job_id,))
    await postgres_outbox.forget(connection, job_id)


async def insert_key(connection: Connection, key: SubmissionKey) -> None:
    """Record an idempotency key.

    Raises:
        KeyTakenError: the owner has used it for another job.
    """
    try:
        async with connection.transaction():
            await connection.execute(
                "INSERT INTO submission_keys VALUES (%s, %s, %s, %s, %s)",
                (key.owner, key.key, key.fingerprint, key.job_id, key.created),
            )
    except psycopg.errors.UniqueViolation:
        found = await connection.execute(
            "SELECT job_id FROM submission_keys WHERE owner = %s AND key = %s", (key.owner, key.key)
        )
        # The same job's: the transaction is repeated, since its first end was not seen.
        if await found.fetchone() != (key.job_id,):
            raise KeyTakenError(key.key) from None
    await connection.execute(
        "DELETE FROM submission_keys WHERE owner = %s AND created < (SELECT created "
        "FROM submission_keys WHERE owner = %s ORDER BY created DESC LIMIT 1 OFFSET %s)",
        (key.owner, key.owner, store.KEYS_PER_OWNER - 1),
    )
