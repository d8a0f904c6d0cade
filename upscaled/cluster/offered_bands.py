"""Offered bands: rows of the database by which workers do bands of one picture together.

The worker that has a job offers bands of its picture, others claim them and say when they are done.
An offer is of one lease: the database deletes it when the lease or the job ends. A claim counts
while the offer names its worker.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import LiteralString

from upscaled import serial
from upscaled.cluster import work_queue
from upscaled.engines.cpu_method import CpuMethod
from upscaled.jobs.job import ACTIVE, Job
from upscaled.jobs.postgres_database import Connection
from upscaled.pipeline.open_bands import Rows


@dataclass(frozen=True)
class BandRecipe:
    """How a band is to be made. A format in the database: fields may be added but not changed."""

    work: str
    """The `checkpoint.work_key` of the job's work."""
    source_sha256: str
    """Of the band's rows of the prepared picture, with those around it that the network sees."""
    tile_size: int
    tta: bool = False
    method: CpuMethod | None = None


@dataclass(frozen=True)
class Offer:
    """A band that another worker may do."""

    rows: Rows
    recipe: BandRecipe


@dataclass(frozen=True)
class OfferState:
    """What has become of an offer."""

    worker: int | None
    """Who claimed it."""
    sha256: str | None
    """Of the band's rows among the blobs; None: it is not done."""
    seconds: float
    """Engine time of the worker."""
    lost: bool
    """The worker has been silent for a lease."""


@dataclass(frozen=True)
class Claim:
    """A worker's right to do a band of another worker's job, until the offer ends."""

    job: Job
    lease_number: int
    rows: Rows
    recipe: BandRecipe
    worker: int

    @property
    def key(self) -> tuple[str, int, int]:
        """What no other claim of the worker has."""
        return self.job.id, self.lease_number, self.rows[0]


# --- the worker that has the job ------------------------------------------------------------------


async def offer(
    connection: Connection,
    job_id: str,
    lease_number: int,
    pixel_key: str,
    model: str,
    offers: Sequence[Offer],
) -> bool:
    """Offer bands of a job, in place of earlier offers of these; False if the lease has ended."""
    record = await work_queue.locked(connection, job_id)
    if (
        record is None
        or record.lease_number != lease_number
        or record.job.state not in ACTIVE
        or record.queue_entry is None
    ):
        return False
    for one in offers:
        top, bottom = one.rows
        await connection.execute(
            "DELETE FROM offered_bands WHERE job_id = %s AND top = %s", (job_id, top)
        )
        await connection.execute(
            "INSERT INTO offered_bands (job_id, top, bottom, attempt, model, pixel_key, document) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s)",
            (job_id, top, bottom, lease_number, model, pixel_key,
             serial.encode(one.recipe).decode()),
        )  # fmt: skip
    await connection.execute("SELECT pg_notify('upscaled_waiting', %s)", (model,))
    return True


async def states(
    connection: Connection, job_id: str, lease_number: int, lease_seconds: float
) -> dict[Rows, OfferState]:
    """Return what has become of the offers of a lease."""
    found = await connection.execute(
        "SELECT band.top, band.bottom, band.worker, band.sha256, coalesce(band.seconds, 0), "
        "band.worker IS NOT NULL AND coalesce("
        "worker.last_heartbeat < now() - make_interval(secs => %s), true) "
        "FROM offered_bands AS band LEFT JOIN procrastinate_workers AS worker "
        "ON worker.id = band.worker WHERE band.job_id = %s AND band.attempt = %s",
        (lease_seconds, job_id, lease_number),
    )
    return {
        (int(top), int(bottom)): OfferState(*rest) for top, bottom, *rest in await found.fetchall()
    }


async def withdraw(
    connection: Connection, job_id: str, lease_number: int, tops: Collection[int], *, done: bool
) -> set[int]:
    """Delete offers of a lease; return the first rows of those that were deleted.

    Args:
        connection: to the database.
        job_id: the job.
        lease_number: of the lease.
        tops: the first rows of the bands.
        done: also those that are done.
    """
    found = await connection.execute(
        "DELETE FROM offered_bands WHERE job_id = %s AND attempt = %s AND top = ANY(%s) "
        "AND (%s OR sha256 IS NULL) RETURNING top",
        (job_id, lease_number, list(tops), done),
    )
    return {int(top) for (top,) in await found.fetchall()}


async def withdraw_all(connection: Connection, job_id: str, lease_number: int) -> None:
    """Delete the offers of a lease."""
    await connection.execute(
        "DELETE FROM offered_bands WHERE job_id = %s AND attempt = %s", (job_id, lease_number)
    )


# --- the workers that help ------------------------------------------------------------------------

_OPEN: LiteralString = """
    SELECT band.job_id, band.top, band.bottom, band.attempt, band.document, jobs.document
    FROM offered_bands AS band
    JOIN jobs ON jobs.id = band.job_id AND jobs.attempt = band.attempt
    JOIN procrastinate_workers AS owner ON owner.id = jobs.worker
        AND owner.last_heartbeat > now() - make_interval(secs => %s)
    WHERE band.worker IS NULL AND band.pixel_key = %s AND band.model = ANY(%s)
        AND NOT band.job_id = ANY(%s)
    ORDER BY jobs.tag, band.job_id, band.top LIMIT 1 FOR UPDATE OF band SKIP LOCKED
"""


async def claim(
    connection: Connection,
    worker: int,
    pixel_key: str,
    models: Collection[str],
    *,
    without: Collection[str],
    lease_seconds: float,
) -> Claim | None:
    """Give a worker the next band that it can do; None if there is none.

    Args:
        connection: in a transaction of its own.
        worker: the worker's number.
        pixel_key: of its device that is idle.
        models: the models that it has.
        without: ids of jobs that it can't help with.
        lease_seconds: how long the worker that has the job may be silent.
    """
    found = await connection.execute(_OPEN, (lease_seconds, pixel_key, list(models), list(without)))
    row = await found.fetchone()
    if row is None:
        return None
    job_id, top, bottom, number, recipe, job = row
    await connection.execute(
        "UPDATE offered_bands SET worker = %s WHERE job_id = %s AND top = %s",
        (worker, job_id, top),
    )
    return Claim(
        serial.decode(job, Job), int(number), (int(top), int(bottom)),
        serial.decode(recipe, BandRecipe), worker,
    )  # fmt: skip


async def complete(connection: Connection, claim: Claim, sha256: str, seconds: float) -> bool:
    """Record that a claimed band is done; False if the claim no longer counts."""
    found = await connection.execute(
        "UPDATE offered_bands SET sha256 = %s, seconds = %s WHERE job_id = %s AND attempt = %s "
        "AND top = %s AND worker = %s AND (sha256 IS NULL OR sha256 = %s) RETURNING top",
        (sha256, seconds, claim.job.id, claim.lease_number, claim.rows[0], claim.worker, sha256),
    )
    return await found.fetchone() is not None


async def release(connection: Connection, worker: int, key: tuple[str, int, int]) -> None:
    """Let another worker do a band that ``worker`` has claimed and not done."""
    await connection.execute(
        "UPDATE offered_bands SET worker = NULL WHERE job_id = %s AND attempt = %s AND top = %s "
        "AND worker = %s AND sha256 IS NULL",
        (*key, worker),
    )


async def claims_of(connection: Connection, worker: int) -> set[tuple[str, int, int]]:
    """Return the keys of the claims of a worker that count and are not done."""
    found = await connection.execute(
        "SELECT job_id, attempt, top FROM offered_bands WHERE worker = %s AND sha256 IS NULL",
        (worker,),
    )
    return {(str(job_id), int(number), int(top)) for job_id, number, top in await found.fetchall()}
