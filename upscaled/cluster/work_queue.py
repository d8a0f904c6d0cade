"""The work queue: procrastinate's, used inside the transactions that change job records.

A job is active exactly as long as it has an entry in procrastinate's table. Its tables and
functions are used here in SQL, since its worker would acknowledge a job in a transaction of its
own, after the one that records the job's end.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import LiteralString

from upscaled import serial
from upscaled.jobs.job import ACTIVE, Job
from upscaled.jobs.postgres_database import Connection

_TASK = "upscale"
STEPS = 10
"""Priorities in a virtual second; they are 32-bit integers."""
_LOWEST = -(2**31) + 1
_REBASE_AT = 1e8
"""Virtual seconds after which tags start from 0 again, long before priorities run out."""


@dataclass(frozen=True)
class Lease:
    """A worker's right to do a job, until a later lease is numbered."""

    job: Job
    """As it was recorded when it was taken."""
    number: int
    """The column ``attempt`` of the job's row."""
    queue_entry: int
    """The job's number in procrastinate's table."""
    seconds: float = 0.0
    """The job's work, as its place in the order counts it."""
    ahead: bool = False
    """It was taken ahead of the job that was first in order, see `Preference`."""

    @property
    def before(self) -> int:
        """The number of the lease before this one: the end of a lease takes a number too."""
        return self.number - 2


@dataclass(frozen=True)
class Record:
    """A job's row, locked until the end of the transaction."""

    job: Job
    lease_number: int
    queue_entry: int | None
    now: float
    """The database's clock, in seconds since the epoch."""


async def locked(connection: Connection, job_id: str) -> Record | None:
    """Lock a job's row and return it; None if there is none."""
    found = await connection.execute(
        "SELECT document, attempt, delivery, extract(epoch FROM clock_timestamp())::float8 "
        "FROM jobs WHERE id = %s FOR UPDATE",
        (job_id,),
    )
    row = await found.fetchone()
    return None if row is None else Record(serial.decode(row[0], Job), *row[1:])


async def clock(connection: Connection) -> float:
    """Return the database's time, in seconds since the epoch."""
    found = await connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
    row = await found.fetchone()
    assert row is not None  # noqa: S101 - it has one
    return float(row[0])


async def start_tag(connection: Connection, client: str, cost: float) -> float:
    """Return the virtual start tag of a client's next job (start-time fair queueing).

    It is the larger of the virtual time and the finish tag of the client's job before.

    Args:
        connection: in the transaction that adds the job.
        client: key of the client.
        cost: seconds of work.
    """
    found = await connection.execute(
        "INSERT INTO fair_shares AS share (client, finish) "
        "SELECT %(client)s, virtual + %(cost)s FROM fair_clock "
        "ON CONFLICT (client) DO UPDATE SET "
        "finish = greatest(share.finish, (SELECT virtual FROM fair_clock)) + %(cost)s "
        "RETURNING finish",
        {"client": client, "cost": cost},
    )
    row = await found.fetchone()
    assert row is not None  # noqa: S101 - it was inserted or updated
    return max(0.0, float(row[0]) - cost)


def priority(tag: float) -> int:
    """Return procrastinate's priority of a tag: the lower tag is served first."""
    return max(_LOWEST, -int(tag * STEPS))


async def add(connection: Connection, job: Job, tag: float) -> int:
    """Add the queue entry of a job; return its number."""
    found = await connection.execute(
        "SELECT unnest(procrastinate_defer_jobs_v1(ARRAY[ROW(%s::varchar, %s::varchar, %s::int, "
        "NULL::text, NULL::text, jsonb_build_object('job', %s::text), NULL::timestamptz)"
        "::procrastinate_job_to_defer_v1]))",
        (job.request.model_name[:128], _TASK, priority(tag), job.id),
    )
    row = await found.fetchone()
    assert row is not None  # noqa: S101 - one was added
    return int(row[0])


async def withdraw(connection: Connection, entry: int | None) -> None:
    """Delete the queue entry of a job that has ended, whether it waits or is with a worker."""
    if entry is not None:
        await connection.execute("DELETE FROM procrastinate_jobs WHERE id = %s", (entry,))


_FETCH: LiteralString = """
    WITH head AS MATERIALIZED (
        SELECT able.model, able.delay, first.priority, first.id,
            first.priority::bigint - able.delay AS rank
        FROM unnest(%(models)s::varchar[], %(delays)s::bigint[]) AS able (model, delay)
        CROSS JOIN LATERAL (
            SELECT waiting.id, waiting.priority FROM procrastinate_jobs AS waiting
            WHERE waiting.status = 'todo' AND waiting.queue_name = able.model
            ORDER BY waiting.priority DESC, waiting.id LIMIT 1
        ) AS first
    ), best AS (
        SELECT model, delay FROM head ORDER BY rank DESC, id LIMIT 1
    ), candidate AS (
        SELECT waiting.id FROM procrastinate_jobs AS waiting
        WHERE waiting.status = 'todo' AND waiting.queue_name = (SELECT model FROM best)
            AND waiting.priority >= (
                SELECT coalesce(max(head.rank), -9e18::bigint) + best.delay
                FROM best LEFT JOIN head ON head.model <> best.model GROUP BY best.delay
            )
        ORDER BY waiting.priority DESC, waiting.id LIMIT 1 FOR UPDATE SKIP LOCKED
    ), taken AS (
        UPDATE procrastinate_jobs AS job SET status = 'doing', worker_id = %(worker)s
        FROM candidate WHERE job.id = candidate.id
        RETURNING job.id, job.args ->> 'job' AS job_id
    )
    SELECT taken.id, taken.job_id, EXISTS (SELECT FROM head),
        (SELECT model FROM best) <> (SELECT model FROM head ORDER BY priority DESC, id LIMIT 1)
    FROM (VALUES (1)) AS one LEFT JOIN taken ON true
"""
"""Takes the next job of the model whose first job comes first, delays counted. One index entry of
each model is read. If another worker is taking that job, the one behind it is taken only if it
comes before the first jobs of all other models."""


async def _fetch(
    connection: Connection, worker: int, models: Collection[str], delays: Mapping[str, float]
) -> tuple[int, str, bool] | None:
    """Return entry and id of the job that is next for a worker, and whether it goes ahead."""
    queues = [name[:128] for name in models]
    found = await connection.execute(
        _FETCH,
        {
            "models": queues,
            "delays": [int(delays.get(name, 0.0) * STEPS) for name in models],
            "worker": worker,
        },
    )
    row = await found.fetchone()
    assert row is not None  # noqa: S101 - it has one
    entry, job_id, waits, ahead = row
    if entry is not None:
        return int(entry), str(job_id), bool(ahead)
    if not waits:
        return None
    # Another worker has locked the first entry. This takes the next one that is not locked.
    found = await connection.execute(
        "SELECT id, args ->> 'job' FROM procrastinate_fetch_job_v2(%s::varchar[], %s)",
        (queues, worker),
    )
    row = await found.fetchone()
    return None if row is None or row[0] is None else (int(row[0]), str(row[1]), False)


async def take(
    connection: Connection,
    worker: int,
    models: Collection[str],
    delays: Mapping[str, float] = MappingProxyType({}),
) -> Lease | None:
    """Give the next job to a worker, with a new lease; None if there is none that it can do.

    Args:
        connection: in a transaction of its own.
        worker: the worker's number, see `register`.
        models: the models that it has.
        delays: by how many virtual seconds jobs of a model count as later, see `Preference`.
    """
    while True:
        fetched = await _fetch(connection, worker, models, delays)
        if fetched is None:
            return None
        entry, job_id, ahead = fetched
        record = await locked(connection, job_id)
        if record is None or record.job.state not in ACTIVE or record.queue_entry != entry:
            await withdraw(connection, entry)
            continue
        found = await connection.execute(
            "UPDATE jobs SET attempt = attempt + 1, worker = %s WHERE id = %s RETURNING cost, tag",
            (worker, job_id),
        )
        row = await found.fetchone()
        assert row is not None  # noqa: S101 - it is locked
        seconds, tag = row
        await connection.execute(
            "UPDATE fair_clock SET virtual = greatest(virtual, %s::float8)", (tag,)
        )
        return Lease(record.job, record.lease_number + 1, entry, float(seconds), ahead)


async def give_back(connection: Connection, entry: int) -> None:
    """Let another worker take a job, with its old place in the order."""
    await connection.execute(
        "SELECT procrastinate_retry_job_v2(%s, now(), NULL, NULL, NULL)", (entry,)
    )


async def end_lease(connection: Connection, job_id: str, number: int) -> None:
    """Let another worker take a job, if the lease of this number is still the latest."""
    record = await locked(connection, job_id)
    if record is not None and record.lease_number == number and record.queue_entry is not None:
        await connection.execute(
            "UPDATE jobs SET attempt = attempt + 1, worker = NULL WHERE id = %s", (job_id,)
        )
        await give_back(connection, record.queue_entry)


async def compare(
    connection: Connection, worker: int, mine: Mapping[str, int]
) -> tuple[set[str], set[str], list[tuple[str, int]]]:
    """Compare the leases that a worker believes to have with those that are recorded.

    Args:
        connection: to the database.
        worker: the worker's number.
        mine: numbers of its leases by job id.

    Returns:
        The jobs that it has, those that another worker has or had since, and `leases_of` it.
    """
    found = await connection.execute(
        "SELECT id, attempt, state IN ('queued', 'processing') FROM jobs WHERE id = ANY(%s)",
        (list(mine),),
    )
    rows = await found.fetchall()
    held = {job_id for job_id, number, active in rows if active and mine[job_id] == number}
    others = {job_id for job_id, number, _ in rows if mine[job_id] != number}
    return held, others, await leases_of(connection, worker)


async def register(connection: Connection) -> int:
    """Return the number of a new worker, whose lease begins now."""
    found = await connection.execute("SELECT worker_id FROM procrastinate_register_worker_v1()")
    row = await found.fetchone()
    assert row is not None  # noqa: S101 - one was added
    return int(row[0])


async def renew(connection: Connection, worker: int) -> bool:
    """Renew a worker's lease; False if it was declared lost."""
    found = await connection.execute(
        "UPDATE procrastinate_workers SET last_heartbeat = now() WHERE id = %s RETURNING id",
        (worker,),
    )
    return await found.fetchone() is not None


async def unregister(connection: Connection, worker: int) -> None:
    """Forget a worker that has given its jobs back."""
    await connection.execute("SELECT procrastinate_unregister_worker_v1(%s)", (worker,))


async def leases_of(connection: Connection, worker: int) -> list[tuple[str, int]]:
    """Return ids and lease numbers of the jobs that a worker has taken."""
    found = await connection.execute(
        "SELECT jobs.id, jobs.attempt FROM procrastinate_jobs AS delivery JOIN jobs "
        "ON jobs.delivery = delivery.id WHERE delivery.worker_id = %s "
        "AND delivery.status = 'doing'",
        (worker,),
    )
    return [(str(job_id), int(number)) for job_id, number in await found.fetchall()]


_LOST: LiteralString = """
    SELECT jobs.id FROM procrastinate_jobs AS delivery
    JOIN jobs ON jobs.delivery = delivery.id
    LEFT JOIN procrastinate_workers AS worker ON worker.id = delivery.worker_id
    WHERE delivery.status = 'doing' AND (worker.id IS NULL
        OR worker.last_heartbeat < now() - make_interval(secs => %s))
    ORDER BY jobs.id FOR UPDATE OF delivery, jobs SKIP LOCKED
"""


async def lost(connection: Connection, lease_seconds: float) -> list[str]:
    """Lock and return the jobs of workers that have been silent for a lease."""
    found = await connection.execute(_LOST, (lease_seconds,))
    return [str(job_id) for (job_id,) in await found.fetchall()]


async def up_since(connection: Connection) -> float:
    """Return for how many seconds the database has been running."""
    found = await connection.execute(
        "SELECT extract(epoch FROM now() - pg_postmaster_start_time())::float8"
    )
    row = await found.fetchone()
    assert row is not None  # noqa: S101 - it has one
    return float(row[0])


async def tidy(connection: Connection, lease_seconds: float) -> None:
    """Delete workers that are long gone, and clients without an advantage; keep tags small."""
    await connection.execute(
        "DELETE FROM procrastinate_workers WHERE last_heartbeat < now() - "
        "make_interval(secs => %s)",
        (lease_seconds * 20,),
    )
    await connection.execute(
        "DELETE FROM fair_shares WHERE finish <= (SELECT virtual FROM fair_clock)"
    )
    await connection.execute("LOCK TABLE fair_shares IN EXCLUSIVE MODE")
    found = await connection.execute("SELECT virtual FROM fair_clock FOR UPDATE")
    row = await found.fetchone()
    base = float(row[0]) if row else 0.0
    if base < _REBASE_AT:
        return
    await connection.execute("UPDATE fair_clock SET virtual = 0")
    await connection.execute("UPDATE fair_shares SET finish = greatest(0, finish - %s)", (base,))
    await connection.execute(
        "UPDATE jobs SET tag = greatest(0, tag - %s) WHERE state IN ('queued', 'processing')",
        (base,),
    )
    await connection.execute(
        "UPDATE procrastinate_jobs SET priority = least(0, priority + %s) WHERE status = 'todo'",
        (int(base * STEPS),),
    )
