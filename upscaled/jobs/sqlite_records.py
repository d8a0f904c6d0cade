"""`SqliteRecords`: a table of records in `SqliteJobStore`, each with its key and its messages."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from upscaled import serial
from upscaled.jobs import sqlite_keys, sqlite_outbox
from upscaled.jobs.store import SubmissionKey
from upscaled.jobs.webhook_messages import Message

R = TypeVar("R")
T = TypeVar("T")


class Do(Protocol):
    """Runs work on the database, in a transaction."""

    def __call__(self, work: Callable[[sqlite3.Connection], T], /) -> Awaitable[T]: ...


class SqliteRecords(Generic[R]):
    """The rows of a table whose columns ``id``, ``created`` and ``document`` are those of a record.

    Args:
        do: runs work on the database.
        table: its name.
        type_: of the documents.
    """

    def __init__(self, do: Do, table: str, type_: type[R]) -> None:
        self._do = do
        self._table = table
        self._type = type_

    async def put(
        self, row: tuple[object, ...], key: SubmissionKey | None, messages: Sequence[Message]
    ) -> None:
        """Insert or replace a row, with its key and its messages.

        Raises:
            KeyTakenError: the owner has used the key before.
        """
        marks = ", ".join("?" * len(row))
        sql = f"INSERT OR REPLACE INTO {self._table} VALUES ({marks})"  # noqa: S608 - a literal name

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(sql, row).close()
            if key is not None:
                sqlite_keys.insert(connection, key)
            if messages:
                sqlite_outbox.insert(connection, messages)

        await self._do(write)

    async def get(self, id_: str) -> R | None:
        """Return the record of this id, None if there is none."""
        found = await self.select("WHERE id = ?", (id_,))
        return found[0] if found else None

    async def page(
        self, terms: Mapping[str, object], after: tuple[float, str] | None, limit: int
    ) -> list[R]:
        """Return the newest records first, from after ``(created, id)`` on.

        Args:
            terms: conditions with the value of each; those with None are left out.
            after: where the page before ended; None: this is the first one.
            limit: how many to return at most.
        """
        given = {term: value for term, value in terms.items() if value is not None}
        condition, values = " AND ".join(given), list(given.values())
        if after is not None:
            condition += " AND (created, id) < (?, ?)"
            values += after
        return await self.select(
            f"WHERE {condition} ORDER BY created DESC, id DESC LIMIT ?", (*values, limit)
        )

    async def messages_of(self, id_: str) -> list[Message]:
        """Return all messages about a record, in the order in which they were added."""
        return await self._do(lambda connection: sqlite_outbox.of_job(connection, id_))

    async def delete(self, id_: str) -> None:
        """Delete a record with its key and its messages; nothing if there is none."""
        sql = f"DELETE FROM {self._table} WHERE id = ?"  # noqa: S608 - the name is a literal

        def erase(connection: sqlite3.Connection) -> None:
            connection.execute(sql, (id_,)).close()
            sqlite_keys.forget(connection, id_)
            sqlite_outbox.forget(connection, id_)

        await self._do(erase)

    async def select(self, condition: str, values: tuple[object, ...]) -> list[R]:
        """Return the records that a condition in SQL matches."""
        sql = f"SELECT document FROM {self._table} {condition}"  # noqa: S608 - literals, too
        rows = await self._do(lambda c: c.execute(sql, values).fetchall())
        return [serial.decode(document, self._type) for (document,) in rows]
