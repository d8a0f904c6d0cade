"""The outbox of `PostgresJobStore`: messages that wait for delivery, and what became of others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, LiteralString

from upscaled.jobs.postgres_database import Connection
from upscaled.jobs.webhook_messages import Message, MessageState, PendingJob

_COLUMNS: LiteralString = (
    "id, job_id, owner, event, url, body, created, due, state, attempts, finished, status, error"
)
_INSERT: LiteralString = (
    f"INSERT INTO messages ({_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, "
    "%s) ON CONFLICT (id) DO NOTHING"
)


async def insert(connection: Connection, messages: Sequence[Message]) -> None:
    """Add messages; those whose ids are there already are left out.

    If the receiver wants no more of the job, they are added as such.
    """
    async with connection.cursor() as cursor:
        await cursor.executemany(_INSERT, [_row(message) for message in messages])
    for job_id in {message.job_id for message in messages}:
        found = await connection.execute(
            "SELECT 1 FROM messages WHERE job_id = %s AND state = 'gone' LIMIT 1", (job_id,)
        )
        if await found.fetchone():
            await _end_all(connection, job_id, messages[0].created)


async def settle(connection: Connection, message: Message) -> None:
    """Record what became of a message; `MessageState.GONE` ends the job's others too."""
    await connection.execute(
        "UPDATE messages SET state = %s, attempts = %s, due = %s, finished = %s, status = %s, "
        "error = %s WHERE id = %s",
        (
            message.state.value,
            message.attempts,
            message.due,
            message.finished,
            message.status,
            storable(message.error),
            message.id,
        ),
    )
    if message.state is MessageState.GONE:
        await _end_all(connection, message.job_id, message.finished)


async def _end_all(connection: Connection, job_id: str, moment: float | None) -> None:
    await connection.execute(
        "UPDATE messages SET state = 'gone', finished = %s WHERE job_id = %s AND state = 'pending'",
        (moment, job_id),
    )


async def of_job(connection: Connection, job_id: str) -> list[Message]:
    """Return all messages of a job, in the order of its events."""
    query: LiteralString = f"SELECT {_COLUMNS} FROM messages WHERE job_id = %s ORDER BY number"
    found = await connection.execute(query, (job_id,))
    return [_message(row) for row in await found.fetchall()]


async def next_of_job(connection: Connection, job_id: str) -> Message | None:
    """Return the job's first pending message."""
    query: LiteralString = (
        f"SELECT {_COLUMNS} FROM messages WHERE job_id = %s AND state = 'pending' "
        "ORDER BY number LIMIT 1"
    )
    row = await (await connection.execute(query, (job_id,))).fetchone()
    return None if row is None else _message(row)


async def pending_jobs(connection: Connection) -> list[PendingJob]:
    """Return the jobs that have pending messages, with the first of each, oldest first."""
    found = await connection.execute(
        "SELECT job_id, owner, url, due FROM messages WHERE number IN "
        "(SELECT min(number) FROM messages WHERE state = 'pending' GROUP BY job_id) ORDER BY number"
    )
    return [PendingJob(*row) for row in await found.fetchall()]


async def count_pending(connection: Connection, owner: str) -> int:
    """Return how many messages of an owner's jobs are pending."""
    found = await connection.execute(
        "SELECT count(*) FROM messages WHERE owner = %s AND state = 'pending'", (owner,)
    )
    row = await found.fetchone()
    return int(row[0]) if row else 0


async def forget(connection: Connection, job_id: str) -> None:
    """Delete all messages of a job."""
    await connection.execute("DELETE FROM messages WHERE job_id = %s", (job_id,))


def storable(text: str | None) -> str | None:
    """Return ``text`` as PostgreSQL takes it: without NUL, and with whole characters only."""
    if text is None:
        return None
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _row(message: Message) -> tuple[object, ...]:
    values = [getattr(message, name.strip()) for name in _COLUMNS.split(",")]
    return tuple(
        value.value
        if isinstance(value, MessageState)
        else storable(value)
        if isinstance(value, str)
        else value
        for value in values
    )


def _message(row: Sequence[Any]) -> Message:
    values = dict(zip((name.strip() for name in _COLUMNS.split(",")), row, strict=True))
    return Message(
        **{**values, "state": MessageState(values["state"]), "body": bytes(values["body"])}
    )
