"""Job records in SQLite: WAL, one writer thread, numbered migrations."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar, cast

from upscaled import files, serial
from upscaled.errors import ConfigError, NoSpaceError
from upscaled.jobs import sqlite_archives, sqlite_outbox
from upscaled.jobs.job import Job, JobState
from upscaled.jobs.sqlite_archives import SqliteArchives
from upscaled.jobs.sqlite_records import SqliteRecords
from upscaled.jobs.store import JobFilter, SubmissionKey
from upscaled.jobs.webhook_messages import Message, PendingJob

T = TypeVar("T")

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE jobs (
        id TEXT PRIMARY KEY,
        state TEXT NOT NULL,
        created REAL NOT NULL,
        finished REAL,
        has_result INTEGER NOT NULL,
        document TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX jobs_by_state ON jobs (state, created);
    CREATE INDEX jobs_by_end ON jobs (has_result, finished);
    """,
    "CREATE TABLE rates (key TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID",
    """
    ALTER TABLE jobs ADD COLUMN owner TEXT NOT NULL DEFAULT '';
    ALTER TABLE jobs ADD COLUMN model TEXT NOT NULL DEFAULT '';
    ALTER TABLE jobs ADD COLUMN client_ref TEXT;
    UPDATE jobs SET
        owner = coalesce(json_extract(document, '$.owner'), ''),
        model = coalesce(json_extract(document, '$.request.model_name'), '')
        WHERE json_valid(document);
    CREATE INDEX jobs_by_owner ON jobs (owner, created, id);
    """,
    """
    CREATE TABLE submission_keys (
        owner TEXT NOT NULL,
        key TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        job_id TEXT NOT NULL,
        created REAL NOT NULL,
        PRIMARY KEY (owner, key)
    ) WITHOUT ROWID;
    CREATE INDEX submission_keys_by_owner ON submission_keys (owner, created);
    CREATE INDEX submission_keys_by_age ON submission_keys (created);
    CREATE INDEX submission_keys_by_job ON submission_keys (job_id);
    """,
    sqlite_outbox.SCHEMA,
    sqlite_archives.SCHEMA,
)
"""Each script migrates the schema by one version; ``PRAGMA user_version`` counts the migrations."""

FILE = "jobs.sqlite3"
"""The records in a data folder."""
_BATCH = 256

_Work = Callable[[sqlite3.Connection], object]


class SqliteJobStore:
    """The embedded `JobStore`.

    One thread owns the connection. Writes that arrive while a transaction is being synced to
    disk share the next one, so durability costs one sync per batch, not per job.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._inbox: queue.SimpleQueue[tuple[_Work, Future[object]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._jobs = SqliteRecords(self._do, "jobs", Job)
        self.archives = SqliteArchives(self._do)

    async def open(self) -> None:
        """Open or create the database and migrate its schema.

        Raises:
            ConfigError: it was written by a later version, or is not a database.
        """
        connection = await asyncio.to_thread(self._connect)
        self._thread = threading.Thread(
            target=self._serve, args=(connection,), name="job-store", daemon=True
        )
        self._thread.start()

    def _connect(self) -> sqlite3.Connection:
        try:
            # SQLite creates its other files (-wal, -shm) with this file's permissions.
            os.close(os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    files.make_private(self._file.with_name(self._file.name + suffix))
            connection = sqlite3.connect(
                self._file, isolation_level=None, check_same_thread=False, timeout=10
            )
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                # FULL: a commit has reached the disk when it returns, also after a power cut.
                connection.execute("PRAGMA synchronous=FULL")
                migrate(connection)
            except sqlite3.DatabaseError:
                connection.close()
                raise
        except (sqlite3.DatabaseError, OSError) as error:
            raise ConfigError(f"The job records in {self._file} can't be used: {error}.") from None
        return connection

    async def close(self) -> None:
        """Write pending records, then close the database."""
        if self._thread is not None:
            self._inbox.put(None)
            await asyncio.to_thread(self._thread.join)
            self._thread = None

    def _serve(self, connection: sqlite3.Connection) -> None:
        stopping = False
        while not stopping:
            batch: list[tuple[_Work, Future[object]]] = []
            item = self._inbox.get()
            while True:
                if item is None:
                    stopping = True
                    break
                batch.append(item)
                if len(batch) == _BATCH or self._inbox.empty():
                    break
                item = self._inbox.get()
            self._run(connection, batch)
        connection.close()

    def _run(
        self, connection: sqlite3.Connection, batch: list[tuple[_Work, Future[object]]]
    ) -> None:
        """Do a batch in one transaction; if that fails, each part in its own.

        So a record that a full disk rejects does not block other reads and writes.
        """
        try:
            self._transact(connection, batch)
        except Exception as error:  # passed on to all callers that wait for this batch
            if len(batch) == 1:
                batch[0][1].set_exception(_translated(error))
                return
            for piece in batch:
                self._run(connection, [piece])

    def _transact(
        self, connection: sqlite3.Connection, batch: list[tuple[_Work, Future[object]]]
    ) -> None:
        try:
            connection.execute("BEGIN")
            done = [(future, work(connection)) for work, future in batch]
            connection.execute("COMMIT")
        except Exception:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        for future, value in done:
            future.set_result(value)

    async def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        future: Future[object] = Future()
        self._inbox.put((work, future))
        # Shielded: a cancelled caller must not cancel the rest of the batch.
        return cast(T, await asyncio.shield(asyncio.wrap_future(future)))

    async def put(
        self,
        job: Job,
        key: SubmissionKey | None = None,
        *,
        messages: Sequence[Message] = (),
    ) -> None:
        """Insert or replace the job, with its key and its messages."""
        has_result = job.state is JobState.COMPLETED and job.result_gone is None
        row = (
            job.id,
            job.state.value,
            job.created,
            job.finished,
            int(has_result),
            serial.encode(job).decode(),
            job.owner,
            job.request.model_name,
            job.client_ref,
        )
        await self._jobs.put(row, key, messages)

    async def key(self, owner: str, key: str) -> SubmissionKey | None:
        sql = "SELECT * FROM submission_keys WHERE owner = ? AND key = ?"
        rows = await self._do(lambda c: c.execute(sql, (owner, key)).fetchall())
        return SubmissionKey(*rows[0]) if rows else None

    async def keys_of(self, job_id: str) -> list[SubmissionKey]:
        sql = "SELECT * FROM submission_keys WHERE job_id = ? ORDER BY created"
        rows = await self._do(lambda c: c.execute(sql, (job_id,)).fetchall())
        return [SubmissionKey(*row) for row in rows]

    async def forget_keys(self, before: float) -> None:
        sql = "DELETE FROM submission_keys WHERE created < ?"
        await self._do(lambda c: c.execute(sql, (before,)).close())

    async def get(self, job_id: str) -> Job | None:
        return await self._jobs.get(job_id)

    async def in_states(self, states: Collection[JobState]) -> list[Job]:
        marks = ", ".join("?" * len(states))
        return await self._jobs.select(
            f"WHERE state IN ({marks}) ORDER BY created", tuple(s.value for s in states)
        )

    async def finished_before(self, moment: float, *, with_result: bool) -> list[Job]:
        """Return jobs that ended before ``moment``, oldest first."""
        condition = "WHERE has_result = 1 AND" if with_result else "WHERE has_result IN (0, 1) AND"
        return await self._jobs.select(f"{condition} finished < ? ORDER BY finished", (moment,))

    async def page(
        self, wanted: JobFilter, after: tuple[float, str] | None, limit: int
    ) -> list[Job]:
        """Return the jobs that ``wanted`` matches, newest first, ``limit`` at most."""
        terms: dict[str, object] = {
            "owner = ?": wanted.owner,
            "state = ?": wanted.state and wanted.state.value,
            "model = ?": wanted.model,
            "client_ref = ?": wanted.client_ref,
            "created > ?": wanted.created_after,
            "created < ?": wanted.created_before,
        }
        return await self._jobs.page(terms, after, limit)

    async def delete(self, job_id: str) -> None:
        await self._jobs.delete(job_id)

    async def messages_of(self, job_id: str) -> list[Message]:
        return await self._do(lambda c: sqlite_outbox.of_job(c, job_id))

    async def next_message(self, job_id: str) -> Message | None:
        return await self._do(lambda c: sqlite_outbox.next_of_job(c, job_id))

    async def pending_jobs(self) -> list[PendingJob]:
        return await self._do(sqlite_outbox.pending_jobs)

    async def count_pending(self, owner: str) -> int:
        return await self._do(lambda c: sqlite_outbox.count_pending(c, owner))

    async def settle(self, message: Message) -> None:
        await self._do(lambda c: sqlite_outbox.settle(c, message))

    async def load_rates(self) -> dict[str, str]:
        """Return what was measured of the speed of work, see `upscaled.timing.estimator`."""
        rows = await self._do(lambda c: c.execute("SELECT key, document FROM rates").fetchall())
        return dict(rows)

    async def save_rates(self, rates: Mapping[str, str]) -> None:
        """Insert or replace what was measured."""
        sql = "INSERT OR REPLACE INTO rates VALUES (?, ?)"
        await self._do(lambda c: c.executemany(sql, list(rates.items())).close())


def _translated(error: Exception) -> Exception:
    """Return the error that callers understand if the disk is full or broken."""
    if isinstance(error, sqlite3.OperationalError):
        return NoSpaceError(
            f"The server can't write its job records now ({error}); try again in a minute.",
            headers={"Retry-After": "60"},
        )
    return error


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema up to date, one numbered step a transaction.

    Raises:
        sqlite3.DatabaseError: the schema is newer than this program.
    """
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise sqlite3.DatabaseError("they were written by a later version of upscaled")
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.executescript(f"BEGIN; {script}; PRAGMA user_version = {number}; COMMIT;")
