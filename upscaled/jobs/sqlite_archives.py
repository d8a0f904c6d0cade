"""The archives of `SqliteJobStore`."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from upscaled import serial
from upscaled.jobs import sqlite_keys, sqlite_outbox
from upscaled.jobs.archive_records import ArchiveRecord, ArchiveState
from upscaled.jobs.store import SubmissionKey
from upscaled.jobs.webhook_messages import Message

SCHEMA = """
    CREATE TABLE archives (
        id TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        state TEXT NOT NULL,
        created REAL NOT NULL,
        finished REAL,
        document TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX archives_by_owner ON archives (owner, created, id);
    CREATE INDEX archives_by_end ON archives (finished);
    """


class SqliteArchives:
    """An `ArchiveStore`.

    Args:
        do: runs work on the database, in a transaction.
    """

    def __init__(self, do: Callable[[Callable[[sqlite3.Connection], Any]], Awaitable[Any]]) -> None:
        self._do = do

    async def put(
        self,
        record: ArchiveRecord,
        key: SubmissionKey | None = None,
        *,
        messages: Sequence[Message] = (),
    ) -> None:
        document = serial.encode(record).decode()
        row = (
            record.id, record.owner, record.state.value, record.created, record.finished, document,
        )  # fmt: skip

        def write(connection: sqlite3.Connection) -> None:
            sql = "INSERT OR REPLACE INTO archives VALUES (?, ?, ?, ?, ?, ?)"
            connection.execute(sql, row).close()
            if key is not None:
                sqlite_keys.insert(connection, key)
            if messages:
                sqlite_outbox.insert(connection, messages)

        await self._do(write)

    async def get(self, archive_id: str) -> ArchiveRecord | None:
        found = await self._select("WHERE id = ?", (archive_id,))
        return found[0] if found else None

    async def all_of(
        self, *, state: ArchiveState | None = None, finished_before: float | None = None
    ) -> list[ArchiveRecord]:
        return await self._select(
            "WHERE (?1 IS NULL OR state = ?1) AND (?2 IS NULL OR finished < ?2) ORDER BY created",
            (state and state.value, finished_before),
        )

    async def page(
        self, owner: str, after: tuple[float, str] | None, limit: int
    ) -> list[ArchiveRecord]:
        return await self._select(
            "WHERE owner = ?1 AND (?2 IS NULL OR (created, id) < (?2, ?3)) "
            "ORDER BY created DESC, id DESC LIMIT ?4",
            (owner, *(after or (None, None)), limit),
        )

    async def delete(self, archive_id: str) -> None:
        def erase(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM archives WHERE id = ?", (archive_id,)).close()
            sqlite_keys.forget(connection, archive_id)
            sqlite_outbox.forget(connection, archive_id)

        await self._do(erase)

    async def _select(self, condition: str, values: tuple[object, ...]) -> list[ArchiveRecord]:
        sql = f"SELECT document FROM archives {condition}"  # noqa: S608 - literals here
        rows = await self._do(lambda c: c.execute(sql, values).fetchall())
        return [serial.decode(document, ArchiveRecord) for (document,) in rows]
