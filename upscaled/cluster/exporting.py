"""The export of a cluster's jobs into the data folder of one machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psycopg

from upscaled import files
from upscaled.blobs.blobs import BlobMissingError, delete_below, fetch
from upscaled.cluster import keys, members, work_queue
from upscaled.cluster.importing import lock
from upscaled.cluster.link import Link
from upscaled.cluster.moved import Moved, waiting_again, without_upload
from upscaled.errors import ConfigError, StoreUnavailableError
from upscaled.jobs import sqlite_store
from upscaled.jobs.job import ACTIVE, Job, JobState
from upscaled.jobs.postgres_database import LONG_SECONDS, Connection
from upscaled.jobs.postgres_store import PostgresJobStore
from upscaled.jobs.results import result_name
from upscaled.jobs.sqlite_store import SqliteJobStore
from upscaled.jobs.workspace import Workspace
from upscaled.webhooks.events import messages_of

_PARTIAL = f"{sqlite_store.FILE}.export"
_WHOLE = f"{sqlite_store.FILE}.exported"
"""All jobs are in it; they may still be in the database too."""


class FolderExport:
    """Moves all jobs of a cluster without members into a data folder.

    The records are written under a name that no server reads. Once everything is in the folder, the
    jobs are deleted from the database, and then the records are renamed. So at any moment one of
    the two has all jobs, and a killed run can be continued.

    Args:
        link: the cluster, opened.
        folder: the data folder; it must have no records.
        lease_seconds: how long a member may be silent.
    """

    def __init__(self, link: Link, folder: Path, lease_seconds: float) -> None:
        self._link = link
        self._folder = folder
        self._lease_seconds = lease_seconds
        self._workspace = Workspace(folder)
        self._cluster = PostgresJobStore(link.database)
        self._moved = Moved()

    async def run(self) -> Moved:
        """Move everything.

        Raises:
            ConfigError: members of the cluster run, or the folder has records.
            StoreUnavailableError: database or blobs don't answer; run it again.
            OSError: the folder can't be written.
        """
        await asyncio.to_thread(files.make_folder, self._folder, 0o700)
        held = await asyncio.to_thread(lock, self._folder)
        try:
            if await asyncio.to_thread((self._folder / sqlite_store.FILE).exists):
                raise ConfigError(
                    f"{self._folder} holds the jobs of one machine already "
                    f"({sqlite_store.FILE}); name another folder with --to."
                )
            async with self._nobody_else():
                await self._move_all()
        finally:
            os.close(held)
        return self._moved

    @contextlib.asynccontextmanager
    async def _nobody_else(self) -> AsyncIterator[None]:
        """Let no process join the cluster for the length of the block."""
        try:
            connecting = await psycopg.AsyncConnection.connect(
                self._link.database.url, autocommit=True, connect_timeout=5
            )
        except psycopg.OperationalError as error:
            raise StoreUnavailableError(f"The database does not answer: {error}.") from error
        async with connecting as connection:
            await members.hold_off(connection)
            await self._check_alone(connection)
            yield

    async def _check_alone(self, connection: Connection) -> None:
        there = await members.present(connection, self._lease_seconds)
        if there:
            named = ", ".join(one.member.id for one in there)
            raise ConfigError(
                f"These members of the cluster run, or ran within the last {self._lease_seconds:g} "
                f"s: {named}. Stop them first, so that no job changes while it is moved."
            )

    async def _move_all(self) -> None:
        jobs = await self._cluster.in_states(tuple(JobState))
        partial, whole = self._folder / _PARTIAL, self._folder / _WHOLE
        if not await asyncio.to_thread(whole.exists):
            await asyncio.to_thread(_delete, partial)
        elif jobs:  # the run before was killed between its last two steps
            await asyncio.to_thread(whole.replace, partial)
        if jobs or not await asyncio.to_thread(whole.exists):
            await self._write(partial, jobs)
            await asyncio.to_thread(_rename, partial, whole)
            await self._link.database.run(self._forget_all, seconds=LONG_SECONDS)
        await asyncio.to_thread(_rename, whole, self._folder / sqlite_store.FILE)
        for job in jobs:
            await self._link.blobs.delete(keys.upload(job.id))
            await delete_below(self._link.blobs, f"{keys.RESULTS}/{job.id}")
        await delete_below(self._link.blobs, keys.BANDS)

    async def _write(self, file: Path, jobs: list[Job]) -> None:
        await asyncio.to_thread(files.make_folder, self._workspace.jobs_dir, 0o700)
        records = SqliteJobStore(file)
        await records.open()
        try:
            for job in jobs:
                await self._move(job, records)
            await records.save_rates(await self._cluster.load_rates())
        finally:
            await records.close()

    async def _move(self, job: Job, records: SqliteJobStore) -> None:
        now = await self._link.database.run(work_queue.clock)
        found = await self._with_files(job, now)
        messages = await self._cluster.messages_of(job.id)
        own = await self._cluster.keys_of(job.id)
        if found.state is not job.state and found.state not in ACTIVE:
            messages += messages_of(found)
        await records.put(found, messages=messages)
        for key in own:
            if await records.key(key.owner, key.key) is None:
                await records.put(found, key)
        for message in messages:  # a run before may have written it as it was then
            await records.settle(message)
        self._moved.count(found)
        self._moved.lost_uploads += found.state is JobState.FAILED is not job.state
        self._moved.lost_results += found.result_gone is not None is job.result_gone

    async def _with_files(self, job: Job, now: float) -> Job:
        """Copy a job's files into its folder; return the record to write there."""
        folder = self._workspace.folder(job.id)
        await asyncio.to_thread(folder.mkdir, mode=0o700, exist_ok=True)
        upload = self._workspace.upload_of(job.id)
        has_upload = await self._fetch(keys.upload(job.id), upload, job.input_sha256)
        result_key = job.result_key
        job = replace(job, result_key="")
        if job.state in ACTIVE:
            job = waiting_again(job)
            job = job if has_upload else without_upload(job, now)
        elif job.state is JobState.COMPLETED and job.result_gone is None:
            path = folder / result_name(job)
            if not await self._fetch(result_key, path, job.receipt["output"]["sha256"]):
                job = replace(job, result_gone="lost")
        await asyncio.to_thread(_sync_or_remove, folder)
        return job

    async def _fetch(self, key: str, path: Path, wanted: str) -> bool:
        """Copy a blob to a file; False if it is missing or damaged."""
        with contextlib.suppress(OSError):
            if wanted and await asyncio.to_thread(files.sha256_of, path) == wanted:
                return True  # by an earlier run
        part = path.with_name(f"{path.name}.part")
        try:
            found = await fetch(self._link.blobs, key, part)
        except BlobMissingError:
            await asyncio.to_thread(part.unlink, missing_ok=True)
            return False
        if wanted and found != wanted:
            await asyncio.to_thread(part.unlink)
            return False
        await asyncio.to_thread(_store, part, path)
        return True

    async def _forget_all(self, connection: Connection) -> None:
        """Delete all jobs from the database."""
        await self._check_alone(connection)
        await connection.execute(
            "TRUNCATE jobs, offered_bands, submission_keys, messages, fair_shares"
        )
        await connection.execute("DELETE FROM procrastinate_jobs")


def _delete(records: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        records.with_name(records.name + suffix).unlink(missing_ok=True)


def _rename(path: Path, target: Path) -> None:
    path.replace(target)
    files.sync(target.parent)


def _store(part: Path, path: Path) -> None:
    files.sync(part)
    part.replace(path)


def _sync_or_remove(folder: Path) -> None:
    """Sync a job's folder; delete it if it has no files."""
    with contextlib.suppress(OSError):
        folder.rmdir()
        return
    files.sync(folder)
    files.sync(folder.parent)
