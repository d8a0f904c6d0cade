"""The link of a process to its cluster: the database and the blobs."""

from __future__ import annotations

from pathlib import Path

import psycopg

from upscaled.blobs.blobs import Blobs
from upscaled.blobs.folder import FolderBlobs
from upscaled.blobs.marked import MarkedBlobs
from upscaled.cluster import identity, members
from upscaled.cluster.keys import IDENTITY
from upscaled.cluster.members import member_id
from upscaled.config.settings import Config
from upscaled.errors import ConfigError
from upscaled.jobs.postgres_database import LONG_SECONDS, Connection, Database
from upscaled.jobs.postgres_schema import migrate


class Link:
    """Database and blobs of a cluster. Between `open` and `close` they can be used.

    Args:
        config: names them.
    """

    def __init__(self, config: Config) -> None:
        self._lease_seconds = config.cluster.lease_seconds
        self._named = config.cluster.blobs
        self.name = member_id(config)
        """This process among the members."""
        self.database = Database(config.cluster.database_url)
        self.blobs = MarkedBlobs(_blobs(config), IDENTITY)

    async def open(self) -> None:
        """Connect, bring the schema up to date, and check that database and blobs are a pair.

        Raises:
            ConfigError: a setting is wrong.
            StoreUnavailableError: database or blobs don't answer.
        """
        await self.database.open()
        try:
            await self.database.run(self._upgrade, seconds=LONG_SECONDS)
            await self.blobs.open()
            await identity.check(self.database, self.blobs.unchecked, self._named)
        except BaseException as error:
            await self.close()
            if isinstance(error, psycopg.errors.InsufficientPrivilege):
                raise ConfigError(
                    "The role of cluster.database_url lacks a right in the database: "
                    f"{error.diag.message_primary}. Run `upscaled cluster grant` as its owner."
                ) from error
            raise

    async def _upgrade(self, connection: Connection) -> None:
        await members.check_upgrade(connection, self._lease_seconds)
        await migrate(connection)

    async def close(self) -> None:
        """Disconnect."""
        await self.blobs.close()
        await self.database.close()


def _blobs(config: Config) -> Blobs:
    named = config.cluster.blobs
    if "://" not in named:
        return FolderBlobs(Path(config.path(named)))
    from upscaled.blobs.object_store import ObjectStoreBlobs  # noqa: PLC0415 - a large library

    return ObjectStoreBlobs(named)
