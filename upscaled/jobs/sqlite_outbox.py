"""The outbox of `SqliteJobStore`: messages that wait for delivery, and what became of others."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from upscaled.jobs.webhook_messages import Message, MessageState, PendingJob

SCHEMA = """
    CREATE TABLE messages (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        job_id TEXT NOT NULL,
        owner TEXT NOT NULL,
        event TEXT NOT NULL,
        url TEXT NOT NULL,
        body BLOB NOT NULL,
        created REAL NOT NULL,
        due REAL NOT NULL,
        state TEXT NOT NULL,
        attempts INTEGER NOT NULL,
        finished REAL,
        status INTEGER,
        error TEXT
    );
    CREATE INDEX messages_by_job ON messages (job_id, number);
    CREATE INDEX messages_pending ON messages (owner, job_id, number) WHERE state = 'pending';
    """

_COLUMNS = (
    "id, job_id, owner, event, url, body, created, due, state, attempts, finished, status, error"
)
_PENDING = "state = 'pending'"


def insert(connection: sqlite3.Connection, messages: Sequence[Message]) -> None:
    """Add messages; those whose ids are there already are left out.

    If the receiver wants no more of the job, they are added as such.
    """
    marks = ", ".join("?" * len(_COLUMNS.split(",")))
    sql = f"INSERT OR IGNORE INTO messages ({_COLUMNS}) VALUES ({marks})"  # noqa: S608
    connection.executemany(sql, [_row(message) for message in messages]).close()
    for job_id in {message.job_id for message in messages}:
        gone = "SELECT 1 FROM messages WHERE job_id = ? AND state = 'gone'"
        if connection.execute(gone, (job_id,)).fetchone():
            _end_all(connection, job_id, messages[0].created)


def settle(connection: sqlite3.Connection, message: Message) -> None:
    """Record what became of a message; `MessageState.GONE` ends the job's others too."""
    connection.execute(
        "UPDATE messages SET state = ?, attempts = ?, due = ?, finished = ?, status = ?, error = ? "
        "WHERE id = ?",
        (
            message.state.value,
            message.attempts,
            message.due,
            message.finished,
            message.status,
            message.error,
            message.id,
        ),
    ).close()
    if message.state is MessageState.GONE:
        _end_all(connection, message.job_id, message.finished)


def _end_all(connection: sqlite3.Connection, job_id: str, moment: float | None) -> None:
    sql = f"UPDATE messages SET state = 'gone', finished = ? WHERE job_id = ? AND {_PENDING}"  # noqa: S608
    connection.execute(sql, (moment, job_id)).close()


def of_job(connection: sqlite3.Connection, job_id: str) -> list[Message]:
    """Return all messages of a job, in the order of its events."""
    return _select(connection, "job_id = ? ORDER BY number", job_id)


def next_of_job(connection: sqlite3.Connection, job_id: str) -> Message | None:
    """Return the job's first pending message."""
    found = _select(connection, f"job_id = ? AND {_PENDING} ORDER BY number LIMIT 1", job_id)
    return found[0] if found else None


def pending_jobs(connection: sqlite3.Connection) -> list[PendingJob]:
    """Return the jobs that have pending messages, with the first of each, oldest first."""
    first = f"SELECT min(number) FROM messages WHERE {_PENDING} GROUP BY job_id"  # noqa: S608
    sql = f"SELECT job_id, owner, url, due FROM messages WHERE number IN ({first}) ORDER BY number"  # noqa: S608
    return [PendingJob(*row) for row in connection.execute(sql)]


def count_pending(connection: sqlite3.Connection, owner: str) -> int:
    """Return how many messages of an owner's jobs are pending."""
    sql = f"SELECT count(*) FROM messages WHERE owner = ? AND {_PENDING}"  # noqa: S608
    return int(connection.execute(sql, (owner,)).fetchone()[0])


def forget(connection: sqlite3.Connection, job_id: str) -> None:
    """Delete all messages of a job."""
    connection.execute("DELETE FROM messages WHERE job_id = ?", (job_id,)).close()


def _select(connection: sqlite3.Connection, condition: str, job_id: str) -> list[Message]:
    sql = f"SELECT {_COLUMNS} FROM messages WHERE {condition}"  # noqa: S608 - literals here
    return [_message(row) for row in connection.execute(sql, (job_id,))]


def _row(message: Message) -> tuple[object, ...]:
    return tuple(
        getattr(message, name.strip()) if name.strip() != "state" else message.state.value
        for name in _COLUMNS.split(",")
    )


def _message(row: Sequence[Any]) -> Message:
    values = dict(zip((name.strip() for name in _COLUMNS.split(",")), row, strict=True))
    return Message(**{**values, "state": MessageState(values["state"])})
