"""The idempotency keys of `SqliteJobStore`."""

from __future__ import annotations

import sqlite3

from upscaled.jobs import store
from upscaled.jobs.store import KeyTakenError, SubmissionKey


def insert(connection: sqlite3.Connection, key: SubmissionKey) -> None:
    """Add a key; it replaces the owner's oldest one where there are too many.

    Raises:
        KeyTakenError: the owner has used it before.
    """
    values = (key.owner, key.key, key.fingerprint, key.job_id, key.created)
    try:
        connection.execute("INSERT INTO submission_keys VALUES (?, ?, ?, ?, ?)", values).close()
    except sqlite3.IntegrityError:
        raise KeyTakenError(key.key) from None
    kept = "SELECT created FROM submission_keys WHERE owner = ? ORDER BY created DESC LIMIT 1"
    sql = f"DELETE FROM submission_keys WHERE owner = ? AND created < ({kept} OFFSET ?)"  # noqa: S608
    connection.execute(sql, (key.owner, key.owner, store.KEYS_PER_OWNER - 1)).close()


def forget(connection: sqlite3.Connection, job_id: str) -> None:
    """Delete the key of a job or an archive."""
    connection.execute("DELETE FROM submission_keys WHERE job_id = ?", (job_id,)).close()
