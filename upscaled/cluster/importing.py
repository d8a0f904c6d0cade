"""The import of one machine's data folder into a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import replace
from pathlib import Path

from upscaled import files
from upscaled.blobs.blobs import digest
from upscaled.cluster import identity, keys, work_queue
from upscaled.cluster.link import Link
from upscaled.cluster.moved import Moved, waiting_again, without_upload
from upscaled.cluster.records import FIRST_COST
from upscaled.errors import ConfigError, StoreUnavailableError
from upscaled.jobs import postgres_outbox, sqlite_store, workspace
from upscaled.jobs.archive_records import ArchiveState
from upscaled.jobs.job import ACTIVE, Job, JobState
from upscaled.jobs.postgres_database import Connection
from upscaled.jobs.postgres_store import PostgresJobStore, insert_job, insert_key
from upscaled.jobs.results import result_name
from upscaled.jobs.sqlite_store import SqliteJobStore
from upscaled.jobs.store import KeyTakenError, SubmissionKey
from upscaled.jobs.webhook_messages import Message
from upscaled.webhooks.events import messages_of

_JOURNAL = "import.journal"
_LEASE = 0
"""Number of the lease under which imported results are kept; workers' begin at 1."""


class FolderImport:
    """Moves the jobs of a data folder into a cluster. Members of the cluster may run meanwhile.

    Each job is recorded in one transaction, after its files have been read back from the blobs. A
    journal in the folder names the moved jobs, so that a killed run can be continued and jobs that
    the cluster has deleted since do not come back. At the end the folder's records are renamed, so
    that no server does the same jobs again.

    Args:
        link: the cluster, opened.
        folder: the data folder.
        fair: clients share the workers; else first come, first served.
    """

    def __init__(self, link: Link, folder: Path, *, fair: bool) -> None:
        self._link = link
        self._folder = folder
        self._fair = fair
        self._workspace = workspace.Workspace(folder)
        self._records = SqliteJobStore(folder / sqlite_store.FILE)
        self._moved = Moved()

    async def run(self) -> Moved:
        """Move everything.

        Raises:
            ConfigError: there are no records, a server uses them, archives are under way, or the
                folder is moving into another cluster.
            StoreUnavailableError: database or blobs don't answer; run it again.
            NoSpaceError: they are full; run it again later.
        """
        held = await asyncio.to_thread(_lock_records, self._folder)
        try:
            await self._records.open()
            try:
                await self._move_all()
            finally:
                await self._records.close()
            await asyncio.to_thread(self._put_aside)
        finally:
            os.close(held)
        return self._moved

    async def _move_all(self) -> None:
        archives = await self._records.archives.all_of()
        unfinished = [one for one in archives if one.state is ArchiveState.PROCESSING]
        if unfinished:
            raise ConfigError(
                f"{len(unfinished)} archives in {self._folder} are under way, and a cluster takes "
                "none. Start the server on this folder until they have ended, or delete them."
            )
        self._moved.archives = len(archives)
        done = await self._read_journal()
        jobs = await self._records.in_states(tuple(JobState))
        for job in jobs:
            if job.id in done:
                self._moved.already += 1
            else:
                await self._move(job)
        await self._move_rates()

    async def _move(self, job: Job) -> None:
        now = await self._link.database.run(work_queue.clock)
        found = await self._with_files(job, now)
        keys_of_job = await self._records.keys_of(job.id)
        messages = await self._records.messages_of(job.id)
        if found.state is not job.state and found.state not in ACTIVE:
            messages += messages_of(found)

        async def add(connection: Connection) -> bool:
            return await self._add(connection, found, keys_of_job, messages)

        if await self._link.database.run(add):
            self._moved.count(found)
            self._moved.lost_uploads += found.state is JobState.FAILED is not job.state
            self._moved.lost_results += found.result_gone is not None is job.result_gone
        else:
            self._moved.already += 1
        await asyncio.to_thread(self._note, job.id)

    async def _with_files(self, job: Job, now: float) -> Job:
        """Put a job's files into the blobs; return the record for the cluster."""
        upload = self._workspace.upload_of(job.id)
        has_upload = await self._put(upload, keys.upload(job.id), job.input_sha256)
        if job.state in ACTIVE:
            crashed = job.state is JobState.PROCESSING
            job = replace(waiting_again(job), crashes=job.crashes + crashed)
            return job if has_upload else without_upload(job, now)
        if job.state is JobState.COMPLETED and job.result_gone is None:
            key = keys.result(job, _LEASE)
            path = self._workspace.folder(job.id) / result_name(job)
            if await self._put(path, key, job.receipt["output"]["sha256"]):
                return replace(job, result_key=key)
            return replace(job, result_gone="lost")
        return job

    async def _put(self, path: Path, key: str, wanted: str) -> bool:
        """Put a file into the blobs and read it back; False if it is missing or damaged."""
        try:
            found = await asyncio.to_thread(files.sha256_of, path)
        except OSError:
            return False
        if wanted and found != wanted:
            return False
        await self._link.blobs.put(key, path)
        stored = await digest(self._link.blobs, key)
        if stored != found:
            raise StoreUnavailableError(f"{path} was stored and came back with other bytes.")
        return True

    async def _add(
        self,
        connection: Connection,
        job: Job,
        keys_of_job: list[SubmissionKey],
        messages: list[Message],
    ) -> bool:
        if await work_queue.locked(connection, job.id) is not None:
            return False
        tag, cost, entry = 0.0, 0.0, None
        if job.state in ACTIVE:
            cost = FIRST_COST
            tag = await work_queue.start_tag(connection, job.client, cost) if self._fair else 0.0
            entry = await work_queue.add(connection, job, tag)
        await insert_job(connection, job, queue_entry=entry, cost=cost, tag=tag)
        for key in keys_of_job:
            with contextlib.suppress(KeyTakenError):  # the cluster's own job has it
                await insert_key(connection, key)
        await postgres_outbox.insert(connection, messages)
        return True

    async def _move_rates(self) -> None:
        store = PostgresJobStore(self._link.database)
        known = await store.load_rates()
        rates = await self._records.load_rates()
        await store.save_rates({key: rates[key] for key in rates.keys() - known.keys()})

    # --- the journal ------------------------------------------------------------------------------

    async def _read_journal(self) -> set[str]:
        """Return the ids of the jobs that are moved; begin the journal if there is none."""
        cluster = await self._link.database.run(identity.of_database)
        journal = self._folder / _JOURNAL
        if not await asyncio.to_thread(journal.exists):
            await asyncio.to_thread(_begin, journal, cluster)
        first, *lines = (await asyncio.to_thread(journal.read_text, "ascii")).splitlines()
        if first != cluster:
            raise ConfigError(
                f"The jobs of {self._folder} are partly in another cluster ({journal} names it). "
                "Finish that import first."
            )
        return set(lines)

    def _note(self, job_id: str) -> None:
        with (self._folder / _JOURNAL).open("a", encoding="ascii") as journal:
            # A line that a power cut tore is no id; its job is found in the database.
            journal.write(f"{job_id}\n")
            journal.flush()
            os.fsync(journal.fileno())

    def _put_aside(self) -> None:
        records = self._folder / sqlite_store.FILE
        number = 1
        while (aside := records.with_name(f"{records.name}.imported-{number}")).exists():
            number += 1
        records.rename(aside)
        (self._folder / _JOURNAL).unlink()
        files.sync(self._folder)


def _begin(journal: Path, cluster: str) -> None:
    with files.replacing(journal, durable=True, mode=0o600) as file:
        file.write(f"{cluster}\n".encode())


def _lock_records(folder: Path) -> int:
    if not (folder / sqlite_store.FILE).is_file():
        before = next(iter(folder.glob(f"{sqlite_store.FILE}.imported-*")), None)
        if before is not None:
            raise ConfigError(
                f"The jobs of {folder} are in a cluster already: its records are {before.name} "
                "since then."
            )
        raise ConfigError(
            f"There are no records of jobs in {folder} ({sqlite_store.FILE}); name the "
            "storage.data_dir of the one machine with --from."
        )
    return lock(folder)


def lock(folder: Path) -> int:
    """Lock a data folder that is moved; return the descriptor; closing it unlocks the folder.

    Raises:
        ConfigError: a server uses it, or this user must not.
    """
    try:
        return workspace.lock(folder)
    except BlockingIOError:
        raise ConfigError(
            f"Another upscaled process uses {folder}; stop it first, so that no job changes while "
            "it is moved."
        ) from None
    except OSError as error:
        raise ConfigError(f"{folder} can't be written to: {error.strerror}.") from None


def check_no_records(folder: Path) -> None:
    """Check that a member's data folder holds no jobs of one machine: it would delete their files.

    Raises:
        ConfigError: it does.
    """
    if (folder / sqlite_store.FILE).exists():
        raise ConfigError(
            f"storage.data_dir is {str(folder)!r}, which holds the jobs of one machine "
            f"({sqlite_store.FILE}). Move them into the cluster with `upscaled cluster import`, or "
            "name another folder."
        )
