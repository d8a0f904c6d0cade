"""The schema of `PostgresJobStore`: numbered migrations, and the versions that may use each."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import psycopg
from procrastinate.schema import SchemaManager
from psycopg import sql

from upscaled.errors import ConfigError
from upscaled.jobs.postgres_database import Connection

_LOCK = 0x7570736D
"""Key of the lock under which one program at a time migrates."""


@dataclass(frozen=True)
class Migration:
    """One step of the schema."""

    script: str
    readable_from: int
    """The oldest version of the schema whose program works with the result. A step that only adds
    keeps it; a step that removes raises it to the version that no longer needs what is removed."""


_JOBS = """
    CREATE TABLE jobs (
        id TEXT PRIMARY KEY,
        state TEXT NOT NULL,
        created DOUBLE PRECISION NOT NULL,
        finished DOUBLE PRECISION,
        has_result BOOLEAN NOT NULL,
        document TEXT NOT NULL,
        owner TEXT NOT NULL,
        model TEXT NOT NULL,
        client_ref TEXT,
        client TEXT NOT NULL,
        attempt INTEGER NOT NULL DEFAULT 0,
        worker BIGINT,
        delivery BIGINT,
        cost DOUBLE PRECISION NOT NULL DEFAULT 0,
        tag DOUBLE PRECISION NOT NULL DEFAULT 0,
        revision BIGINT NOT NULL DEFAULT 0
    );
    COMMENT ON COLUMN jobs.attempt IS 'number of the latest attempt, which fences earlier ones';
    COMMENT ON COLUMN jobs.worker IS 'the worker that makes it, in procrastinate_workers';
    COMMENT ON COLUMN jobs.delivery IS 'the job in procrastinate_jobs that delivers it';
    CREATE INDEX jobs_by_state ON jobs (state, created);
    CREATE INDEX jobs_by_end ON jobs (has_result, finished);
    CREATE INDEX jobs_by_owner ON jobs (owner, created, id);
    CREATE INDEX jobs_by_revision ON jobs (revision);

    CREATE FUNCTION tell_change(job jobs) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        told TEXT = concat_ws(' ', job.id, job.revision, job.tag, job.document);
    BEGIN
        -- A notification has less than 8000 bytes. Of a longer record its readers learn the id.
        PERFORM pg_notify(
            'upscaled_jobs', CASE WHEN octet_length(told) < 8000 THEN told ELSE job.id END
        );
    END $$;
    CREATE FUNCTION jobs_changed() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.revision = greatest(
            (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
            CASE WHEN TG_OP = 'UPDATE' THEN OLD.revision + 1 ELSE 0 END
        );
        IF TG_OP = 'INSERT' THEN
            PERFORM tell_change(NEW);
            IF NEW.delivery IS NOT NULL THEN
                PERFORM pg_notify('upscaled_waiting', NEW.model);
            END IF;
            RETURN NEW;
        END IF;
        IF NEW.document <> OLD.document OR NEW.tag <> OLD.tag THEN
            PERFORM tell_change(NEW);
        END IF;
        -- The bands that its worker offered to others are of the latest attempt only.
        IF OLD.worker IS NOT NULL AND (
            NEW.attempt <> OLD.attempt OR NEW.state NOT IN ('queued', 'processing')
        ) THEN
            DELETE FROM offered_bands WHERE job_id = NEW.id;
        END IF;
        IF NEW.attempt <> OLD.attempt AND NEW.worker IS NULL THEN
            PERFORM pg_notify('upscaled_waiting', NEW.model);
        END IF;
        IF OLD.worker IS NOT NULL AND (
            NEW.attempt <> OLD.attempt OR NEW.state = 'cancelled' AND OLD.state <> 'cancelled'
        ) THEN
            PERFORM pg_notify('upscaled_taken', NEW.id);
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER jobs_changed BEFORE INSERT OR UPDATE ON jobs
        FOR EACH ROW EXECUTE FUNCTION jobs_changed();
    CREATE FUNCTION jobs_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_notify('upscaled_jobs', OLD.id || ' deleted');
        DELETE FROM offered_bands WHERE job_id = OLD.id;
        IF OLD.worker IS NOT NULL AND OLD.state IN ('queued', 'processing') THEN
            PERFORM pg_notify('upscaled_taken', OLD.id);
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER jobs_deleted AFTER DELETE ON jobs
        FOR EACH ROW EXECUTE FUNCTION jobs_deleted();

    CREATE TABLE offered_bands (
        job_id TEXT NOT NULL,
        top INTEGER NOT NULL,
        bottom INTEGER NOT NULL,
        attempt INTEGER NOT NULL,
        model TEXT NOT NULL,
        pixel_key TEXT NOT NULL,
        document TEXT NOT NULL,
        worker BIGINT,
        sha256 TEXT,
        seconds DOUBLE PRECISION,
        PRIMARY KEY (job_id, top)
    );
    COMMENT ON TABLE offered_bands IS 'bands of large pictures that other workers may do';
    COMMENT ON COLUMN offered_bands.worker IS 'the one that does it, in procrastinate_workers';
    COMMENT ON COLUMN offered_bands.sha256 IS 'of its rows among the blobs, when it is done';

    CREATE TABLE submission_keys (
        owner TEXT NOT NULL,
        key TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        job_id TEXT NOT NULL,
        created DOUBLE PRECISION NOT NULL,
        PRIMARY KEY (owner, key)
    );
    CREATE INDEX submission_keys_by_owner ON submission_keys (owner, created);
    CREATE INDEX submission_keys_by_age ON submission_keys (created);
    CREATE INDEX submission_keys_by_job ON submission_keys (job_id);

    CREATE TABLE messages (
        number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        job_id TEXT NOT NULL,
        owner TEXT NOT NULL,
        event TEXT NOT NULL,
        url TEXT NOT NULL,
        body BYTEA NOT NULL,
        created DOUBLE PRECISION NOT NULL,
        due DOUBLE PRECISION NOT NULL,
        state TEXT NOT NULL,
        attempts INTEGER NOT NULL,
        finished DOUBLE PRECISION,
        status INTEGER,
        error TEXT
    );
    CREATE INDEX messages_by_job ON messages (job_id, number);
    CREATE INDEX messages_pending ON messages (owner, job_id, number) WHERE state = 'pending';

    CREATE INDEX waiting_by_model ON procrastinate_jobs (queue_name, priority DESC, id)
        WHERE status = 'todo';
    COMMENT ON INDEX waiting_by_model IS 'the first job of each model, for workers';
    CREATE TABLE fair_clock (single BOOLEAN PRIMARY KEY DEFAULT true CHECK (single),
        virtual DOUBLE PRECISION NOT NULL);
    INSERT INTO fair_clock (virtual) VALUES (0);
    CREATE TABLE fair_shares (client TEXT PRIMARY KEY, finish DOUBLE PRECISION NOT NULL);
    CREATE TABLE rates (key TEXT PRIMARY KEY, document TEXT NOT NULL);
    COMMENT ON TABLE rates IS 'how long work took, by what it was';
    CREATE TABLE cluster (single BOOLEAN PRIMARY KEY DEFAULT true CHECK (single),
        identity TEXT NOT NULL, blobs TEXT NOT NULL);
    COMMENT ON TABLE cluster IS 'the blobs that belong to these records';

    CREATE TABLE members (
        id TEXT PRIMARY KEY,
        role TEXT NOT NULL,
        worker BIGINT,
        started TIMESTAMPTZ NOT NULL DEFAULT now(),
        seen TIMESTAMPTZ NOT NULL DEFAULT now(),
        draining BOOLEAN NOT NULL DEFAULT false,
        document TEXT NOT NULL
    );
    COMMENT ON TABLE members IS 'API servers and workers, as long as they are there';
"""

MIGRATIONS: tuple[Migration, ...] = (Migration(_JOBS, readable_from=1),)


async def migrate(connection: Connection) -> None:
    """Bring the schema up to date, procrastinate's with it; one program at a time, all or nothing.

    Raises:
        ConfigError: a later version of the program changed it incompatibly, or it must be changed
            and this role may not.
    """
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
    version, readable_from = await _version(connection)
    newest = len(MIGRATIONS)
    if version > newest:
        if readable_from > newest:
            raise ConfigError(
                f"The database has version {version} of the schema, written by a later version of "
                f"upscaled; this one knows {newest} and can't use it. Upgrade this machine too."
            )
        return
    if version == newest:
        return
    try:
        await _change(connection, version)
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigError(
            f"The database has version {version} of the schema, this program needs {newest}, and "
            f"the role of cluster.database_url may not change it ({error.diag.message_primary}). "
            "Run `upscaled cluster grant` as the owner of the database first."
        ) from error


async def _version(connection: Connection) -> tuple[int, int]:
    """Return the version of the schema, and the oldest that can use it; zeros if there is none."""
    there = await connection.execute("SELECT to_regclass('upscaled_schema') IS NOT NULL")
    if await there.fetchone() != (True,):
        return 0, 0
    cursor = await connection.execute("SELECT version, readable_from FROM upscaled_schema")
    return await cursor.fetchone() or (0, 0)


async def _change(connection: Connection, version: int) -> None:
    if version == 0:
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS upscaled_schema "
            "(version INTEGER NOT NULL, readable_from INTEGER NOT NULL)"
        )
        await _execute(connection, await asyncio.to_thread(SchemaManager.get_schema))
    for migration in MIGRATIONS[version:]:
        await _execute(connection, migration.script)
    await connection.execute("DELETE FROM upscaled_schema")
    await connection.execute(
        "INSERT INTO upscaled_schema VALUES (%s, %s)",
        (len(MIGRATIONS), MIGRATIONS[-1].readable_from),
    )


async def _execute(connection: Connection, script: str) -> None:
    # Composed, since only literals count as statements; scripts are constants of the program.
    await connection.execute(sql.SQL(script))
