"""What one PostgreSQL carries: jobs a second of stand-in workers that only take and end them.

    python -m bench.cluster_database [--jobs N] [--quick]

Real statements of API servers and workers against a real PostgreSQL that waits for the disk at each
commit: each loop adds a job, takes the next one, records its beginning and its end with the receipt
of a real picture. No picture is made. The loops share the processor with the server, so the
server's processor time for each job is shown too. Notifications are heard by as many connections
as a cluster would have members; these only read.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import psycopg

from bench.report import Report, table
from bench.setup import make_parser
from testkit.jobs import make_job
from testkit.paths import DATA
from testkit.postgres import PostgresServer
from testkit.services import make_config, running, submit
from upscaled.blobs.folder import FolderBlobs
from upscaled.cluster import work_queue
from upscaled.cluster.changes import JOBS, PROGRESS
from upscaled.cluster.records import HeldJob, SharedJobStore, WorkerJobStore
from upscaled.jobs.job import Job, JobState, new_job_id
from upscaled.jobs.postgres_database import Database
from upscaled.jobs.postgres_schema import migrate
from upscaled.models.install import install

_PROCESSES = 2
_LISTENING_SECONDS = 60.0


async def _real_job(folder: Path) -> Job:
    """Return the record of a job that one machine did."""
    install(folder / "models")
    async with running(make_config(folder / "alone", folder / "models")) as service:
        job = await submit(service, DATA / "coffee.jpg", scale="2")
        return await service.jobs.wait(job.id)


def _load(url: str, done: Job, jobs: int, at_once: int, seed: int) -> float:
    """Add, take, begin and end jobs; return the seconds that it took."""
    return asyncio.run(_load_with(url, done, jobs, at_once, seed))


async def _load_with(url: str, done: Job, jobs: int, at_once: int, seed: int) -> float:
    database = Database(url, size=at_once)
    await database.open()
    servers = SharedJobStore(database, lambda _: (), fair=True)
    ends = WorkerJobStore(
        database, FolderBlobs(Path("/nonexistent")), _no_file, lambda _: (), print
    )
    worker = await database.run(work_queue.register)
    models = [done.request.model_name]
    waiting = make_job(request=done.request, input_size=done.input_size)
    numbers = iter(range(jobs))

    async def loop() -> None:
        for number in numbers:
            client = f"client {(number + seed) % 20}"
            await servers.put(replace(waiting, id=new_job_id(), client=client))
            lease = None
            while lease is None:  # another process took it, and adds one of its own
                lease = await database.run(lambda c: work_queue.take(c, worker, models))
            ends.held[lease.job.id] = HeldJob(lease)
            begun = lease.job.to(JobState.PROCESSING, device=done.device)
            await ends.put(begun)
            key = f"results/{lease.job.id}/{lease.number}"
            await ends.put(
                begun.to(
                    JobState.COMPLETED, progress=100, receipt=done.receipt, result_key=key,
                    attempts=done.attempts, client="",
                )
            )  # fmt: skip
            del ends.held[lease.job.id]

    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for number in range(at_once):
            tasks.create_task(loop(), name=f"loop {number}")
    seconds = time.monotonic() - began
    await database.close()
    return seconds


def _no_file(job: Job) -> Path:
    raise AssertionError(f"{job.id} has its result already")


def _listen(url: str, members: int, ready: Path) -> None:
    """Hear of all changes on many connections until the file ``ready`` is deleted."""
    asyncio.run(_listen_with(url, members, ready))


async def _listen_with(url: str, members: int, ready: Path) -> None:
    heard = 0

    async def hear(connection: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
        nonlocal heard
        async for _ in connection.notifies():
            heard += 1

    async with contextlib.AsyncExitStack() as closing:
        tasks = []
        for _ in range(members):
            connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
            await closing.enter_async_context(connection)
            for channel in (JOBS, PROGRESS):
                await connection.execute(f"LISTEN {channel}".encode())
            tasks.append(asyncio.create_task(hear(connection), name="listener"))
        ready.touch()
        while ready.exists():
            await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _processor_seconds(server: psutil.Process) -> float:
    """Return the processor time of PostgreSQL so far, with that of sessions that ended."""
    used = 0.0
    for one in (server, *server.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            used += times.user + times.system + times.children_user + times.children_system
    return used


@contextlib.contextmanager
def _listeners(pool: ProcessPoolExecutor, url: str, members: int, folder: Path) -> Iterator[None]:
    if not members:
        yield
        return
    ready = folder / "ready"
    listening = pool.submit(_listen, url, members, ready)
    deadline = time.monotonic() + _LISTENING_SECONDS
    while not ready.exists() and time.monotonic() < deadline and not listening.done():
        time.sleep(0.05)
    try:
        yield
    finally:
        ready.unlink(missing_ok=True)
        listening.result()


def measure(
    postgres: PostgresServer, done: Job, jobs: int, at_once: int, members: int, folder: Path
) -> dict[str, float]:
    """Run one load in a database of its own; return what a job cost."""
    server = psutil.Process(postgres.pid)
    with (
        postgres.database() as url,
        ProcessPoolExecutor(_PROCESSES + 1, mp_context=get_context("spawn")) as pool,
    ):
        asyncio.run(_migrated(url))
        postgres.execute("CREATE EXTENSION pg_stat_statements", url)
        with _listeners(pool, url, members, folder):
            postgres.execute("SELECT pg_stat_statements_reset()", url)
            ((wal,),) = postgres.execute(_WAL)
            used, share = _processor_seconds(server), jobs // _PROCESSES
            loads = [
                pool.submit(_load, url, done, share, at_once // _PROCESSES, seed)
                for seed in range(_PROCESSES)
            ]
            seconds = max(load.result() for load in loads)
            used = _processor_seconds(server) - used
            ((wal_now,),) = postgres.execute(_WAL)
            ((calls, spent),) = postgres.execute(
                "SELECT sum(calls)::float8, sum(total_exec_time)::float8 FROM pg_stat_statements "
                "WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())",
                url,
            )
    count = share * _PROCESSES
    return {
        "jobs a second": count / seconds,
        "processor ms of PostgreSQL": used / count * 1000,
        "statements": float(str(calls)) / count,
        "ms in statements": float(str(spent)) / count,
        "WAL KiB": (int(str(wal_now)) - int(str(wal))) / count / 1024,
    }


_WAL = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"


async def _migrated(url: str) -> None:
    database = Database(url)
    await database.open()
    await database.run(migrate)
    await database.close()


def run(options: argparse.Namespace) -> None:
    """Measure PostgreSQL under loads of several sizes."""
    report = Report("cluster_database", options.quick)
    jobs = options.jobs or (300 if options.quick else 3000)
    rows: list[list[object]] = []
    with TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        done = asyncio.run(_real_job(folder))
        postgres = PostgresServer(
            settings={
                "fsync": "on",
                "shared_preload_libraries": "pg_stat_statements",
                "shared_buffers": "256MB",
                "max_connections": "600",
            }
        )
        postgres.start()
        try:
            for at_once, members in ((2, 0), (16, 0), (48, 0), (16, 8), (16, 40), (16, 200)):
                found = measure(postgres, done, jobs, at_once, members, folder)
                print(at_once, members, found, flush=True)
                rows.append([at_once, members, *(f"{value:,.1f}" for value in found.values())])
                report.details[f"{at_once} at once, {members} listen"] = found
                report.add(f"{at_once} at once, {members} members listen",
                           found["jobs a second"], "jobs/s")  # fmt: skip
        finally:
            postgres.close()
    heads = [
        "at once",
        "members that listen",
        *(f"{what}{'' if what.endswith('second') else ' a job'}" for what in found),
    ]
    report.table = table(heads, rows)
    print(report.table)
    report.finish()


def main() -> None:
    parser = make_parser("cluster_database", __doc__, device=False)
    parser.add_argument("--jobs", type=int, default=0, help="of each load; 3000, or 300 (--quick)")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
