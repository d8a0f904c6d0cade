"""Grants: what the database lets API servers and workers do, so that neither needs to own it."""

from __future__ import annotations

from collections.abc import Mapping

from psycopg import sql

from upscaled.errors import ConfigError
from upscaled.jobs.postgres_database import Connection
from upscaled.jobs.postgres_schema import migrate

_READ = "SELECT"
_WRITE = "SELECT, INSERT, UPDATE, DELETE"
_QUEUE = {
    "procrastinate_jobs": _WRITE,
    "procrastinate_events": _WRITE,
    "procrastinate_periodic_defers": "SELECT, UPDATE",  # by a trigger of procrastinate
    "procrastinate_workers": _WRITE,
}
_BOTH = {
    **_QUEUE,
    "upscaled_schema": _READ,
    "members": _WRITE,
    "rates": _WRITE,
    "fair_clock": "SELECT, UPDATE",
    "cluster": "SELECT, INSERT",  # of the first member
}
SERVER: dict[str, str] = {
    **_BOTH,
    "jobs": _WRITE,
    "submission_keys": _WRITE,
    "messages": _WRITE,
    "fair_shares": _WRITE,
    "offered_bands": "SELECT (job_id), DELETE",  # of cancelled jobs, by a trigger
}
"""The rights of an API server, by table."""
WORKER: dict[str, str] = {
    **_BOTH,
    "jobs": "SELECT, UPDATE (state, created, finished, has_result, document, owner, model, "
    "client_ref, client, attempt, worker)",
    "messages": "INSERT, SELECT (id, job_id, state), UPDATE (state, finished)",
    "offered_bands": "SELECT, INSERT, DELETE, UPDATE (worker, sha256, seconds)",
}
"""The rights of a worker. It adds and deletes no job, and reads neither keys nor messages."""


async def grant(connection: Connection, rights: Mapping[str, Mapping[str, str]]) -> None:
    """Bring the schema up to date, and give each role these rights and no others to its tables.

    Args:
        connection: of the owner of the tables.
        rights: by role, and by table.

    Raises:
        ConfigError: there is no such role, or it owns the tables.
    """
    await migrate(connection)
    found = await connection.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'jobs' "
                                     "AND schemaname = current_schema()")  # fmt: skip
    owners = {row[0] for row in await found.fetchall()}
    for role, tables in rights.items():
        if role in owners:
            raise ConfigError(
                f"{role} owns the tables, so it may do everything with them; name another role."
            )
        there = await connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,))
        if await there.fetchone() is None:
            raise ConfigError(
                f"The database has no role {role}; make it first, for example with "
                f"CREATE ROLE {role} LOGIN PASSWORD '…'."
            )
        await _give(connection, role, tables)


async def _give(connection: Connection, role: str, tables: Mapping[str, str]) -> None:
    row = await (await connection.execute("SELECT current_schema()")).fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM has one
    names = {"role": sql.Identifier(role), "schema": sql.Identifier(row[0])}
    for statement in (
        "GRANT USAGE ON SCHEMA {schema} TO {role}",
        "GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {role}",
    ):
        await connection.execute(sql.SQL(statement).format(**names))
    for table in SERVER | WORKER:
        await connection.execute(
            sql.SQL("REVOKE ALL ON {table} FROM {role}").format(
                table=sql.Identifier(table), **names
            )
        )
    for table, rights in tables.items():
        await connection.execute(
            # Composed of constants of this module.
            sql.SQL(f"GRANT {rights} ON {{table}} TO {{role}}").format(
                table=sql.Identifier(table), **names
            )
        )
