"""The identity of a cluster: database and blobs both have it, so that wrong pairs are noticed."""

from __future__ import annotations

import uuid

from upscaled import files
from upscaled.blobs.blobs import BlobMissingError, Blobs
from upscaled.cluster.keys import IDENTITY
from upscaled.errors import ConfigError
from upscaled.jobs.postgres_database import LONG_SECONDS, Connection, Database

_MOST = 100
_LOCK = 0x7570736E
"""Key of the lock under which the first member makes the identity."""


async def check(database: Database, blobs: Blobs, named: str) -> None:
    """Check that the blobs are those of the cluster; the first member makes them so.

    Args:
        database: has the identity.
        blobs: opened.
        named: how the settings name the blobs.

    Raises:
        ConfigError: they belong to another cluster, or to none while this one has some.
        StoreUnavailableError: database or blobs don't answer.
    """

    async def compare(connection: Connection) -> None:
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        found = await connection.execute("SELECT identity, blobs FROM cluster")
        row = await found.fetchone()
        there = await _read(blobs)
        if row is None:
            identity = there or uuid.uuid4().hex
            if there is None:
                await _write(blobs, identity)
            await connection.execute("INSERT INTO cluster (identity, blobs) VALUES (%s, %s)",
                                     (identity, named))  # fmt: skip
        elif there != row[0]:
            what = "empty" if there is None else "another cluster's"
            raise ConfigError(
                f"cluster.blobs is {named} here, which is {what}; the cluster of this database "
                f"began with {row[1]}. Name the same folder or bucket on all machines; a folder "
                "must be mounted."
            )

    await database.run(compare, seconds=LONG_SECONDS)


async def of_database(connection: Connection) -> str:
    """Return the identity that `check` has made or found."""
    found = await connection.execute("SELECT identity FROM cluster")
    row = await found.fetchone()
    assert row is not None  # noqa: S101 - `check` came before
    return str(row[0])


async def _read(blobs: Blobs) -> str | None:
    content = b""
    try:
        async for piece in blobs.stream(IDENTITY):
            content += piece
            if len(content) > _MOST:
                return "unreadable"
    except BlobMissingError:
        return None
    return content.decode("ascii", "replace")


async def _write(blobs: Blobs, identity: str) -> None:
    async with files.new_folder("upscaled-") as folder:
        file = folder / "identity"
        await files.in_thread(file.write_text, identity, "ascii")
        await blobs.put(IDENTITY, file)
