"""The archives of `SqliteJobStore`."""

from __future__ import annotations

from collections.abc import Sequence

from upscaled import serial
from upscaled.jobs.archive_records import ArchiveRecord, ArchiveState
from upscaled.jobs.sqlite_records import Do, SqliteRecords
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
        do: runs work on the database.
    """

    def __init__(self, do: Do) -> None:
        self._records = SqliteRecords(do, "archives", ArchiveRecord)

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
        await self._records.put(row, key, messages)

    async def get(self, archive_id: str) -> ArchiveRecord | None:
        return await self._records.get(archive_id)

    async def all_of(
        self, *, state: ArchiveState | None = None, finished_before: float | None = None
    ) -> list[ArchiveRecord]:
        return await self._records.select(
            "WHERE (?1 IS NULL OR state = ?1) AND (?2 IS NULL OR finished < ?2) ORDER BY created",
            (state and state.value, finished_before),
        )

    async def page(
        self, owner: str, after: tuple[float, str] | None, limit: int
    ) -> list[ArchiveRecord]:
        return await self._records.page({"owner = ?": owner}, after, limit)

    async def messages_of(self, archive_id: str) -> list[Message]:
        return await self._records.messages_of(archive_id)

    async def delete(self, archive_id: str) -> None:
        await self._records.delete(archive_id)
