"""A cluster under faults: many jobs while workers, servers and PostgreSQL are killed.

``python -m bench.cluster`` starts PostgreSQL, two API servers and three workers, submits jobs over
both servers, kills a worker every few seconds, restarts an API server and kills PostgreSQL twice,
and checks the history of all answers. Then it counts what a job costs the database.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from PIL import Image

from testkit.cluster import Cluster, healthy, running_cluster
from testkit.history import Caller, History
from testkit.paths import DATA
from testkit.services import FAST, make_config, running, submit
from upscaled.models.install import install

API = "/api/v1"
_PICTURES = 10
_AT_ONCE = 40
_SETTINGS: dict[str, object] = {
    "cluster.lease_seconds": 3,
    "limits.max_queue_size": 1000,
    "upscaler.default_model": FAST["model_name"],
    "upscaler.max_crashes": 100,
    "server.drain_seconds": 5,
}


def _photos() -> list[bytes]:
    found = []
    with Image.open(DATA / "coffee.jpg") as photo:
        for number in range(_PICTURES):
            buffer = io.BytesIO()
            box = (number * 40, 0, number * 40 + 200, 130)
            photo.crop(box).resize((48, 32)).save(buffer, "PNG")
            found.append(buffer.getvalue())
    return found


async def _expected(folder: Path, models: Path, pictures: list[bytes]) -> list[str]:
    """Return the digests of the results of one machine."""
    async with running(make_config(folder / "alone", models)) as service:
        jobs = []
        for number, content in enumerate(pictures):
            path = folder / f"{number}.png"
            path.write_bytes(content)
            jobs.append(await submit(service, path))
        for job in jobs:
            await service.jobs.wait(job.id)
        return [(await service.jobs.result(job.id)).sha256 for job in jobs]


@contextlib.asynccontextmanager
async def _faults(cluster: Cluster, seconds: float) -> AsyncIterator[dict[str, int]]:
    """Kill one after the other for as long as the block runs; yield how often."""
    counts = {"workers killed": 0, "servers restarted": 0, "PostgreSQL killed": 0}

    async def spoil() -> None:
        turn = 0
        while True:
            await asyncio.sleep(seconds)
            turn += 1
            if turn in {3, 7}:
                await asyncio.to_thread(cluster.postgres.kill)
                await asyncio.to_thread(cluster.postgres.start)
                counts["PostgreSQL killed"] += 1
            elif turn == 5:
                await cluster.servers[0].stop()
                await cluster.servers[0].start()
                counts["servers restarted"] += 1
            else:
                worker = cluster.workers[turn % len(cluster.workers)]
                await worker.kill()
                await worker.start()
                counts["workers killed"] += 1

    spoiling = asyncio.create_task(spoil(), name="faults")
    try:
        yield counts
    finally:
        spoiling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await spoiling


async def _call(
    cluster: Cluster, history: History, expected: list[str], jobs: int, *, cancels: bool
) -> dict[str, str]:
    """Submit jobs and follow them to their ends; return the wanted digests by job id."""
    pictures, wanted = _photos(), {}
    servers = [server.url + API for server in cluster.servers]
    room = asyncio.Semaphore(_AT_ONCE)

    async def one(number: int) -> None:
        async with room:
            caller = Caller(servers, history, seed=number)
            which = number % len(pictures)
            job_id = await caller.upscale(
                pictures[which], FAST, cancel=cancels and number % 10 == 9
            )
            wanted[job_id] = expected[which]

    async with asyncio.TaskGroup() as tasks:
        for number in range(jobs):
            tasks.create_task(one(number))
    return wanted


def _database(cluster: Cluster) -> tuple[int, int]:
    """Return the transactions and bytes of WAL so far."""
    ((commits, wal),) = cluster.postgres.execute(
        "SELECT sum(xact_commit)::bigint, "
        "pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint "
        "FROM pg_stat_database"
    )
    return int(str(commits)), int(str(wal))


async def _run(jobs: int, calm: int, pause: float) -> int:
    with tempfile.TemporaryDirectory(prefix="upscaled-bench-") as name:
        folder = Path(name)
        models = folder / "models"
        install(models)
        expected = await _expected(folder, models, _photos())
        history = History()
        async with running_cluster(Cluster(folder, models, settings=_SETTINGS)) as cluster:
            await healthy(cluster.servers[0].url, 3)
            quiet = History()
            before, began = await asyncio.to_thread(_database, cluster), time.monotonic()
            await _call(cluster, quiet, expected, calm, cancels=False)
            seconds = time.monotonic() - began
            await asyncio.sleep(1.5)  # statistics reach the table after a second
            after = await asyncio.to_thread(_database, cluster)
            polls = sum(a.state in {"queued", "processing", "completed"} for a in quiet.answers)
            print(f"without faults: {calm} jobs in {seconds:.1f} s, {polls / calm:.1f} looks each; "
                  f"{(after[0] - before[0]) / calm:.1f} transactions, "
                  f"{(after[1] - before[1]) / calm / 1024:.1f} KiB of WAL a job")  # fmt: skip
            began = time.monotonic()
            async with _faults(cluster, pause) as counts:
                wanted = await _call(cluster, history, expected, jobs, cancels=True)
            print(f"with faults: {len(wanted)} jobs in {time.monotonic() - began:.1f} s; {counts}; "
                  f"refusals {dict(history.refusals)}; {len(history.answers)} answers")  # fmt: skip
        problems = history.problems(wanted)
        print(f"{len(problems)} problems", *problems[:20], sep="\n")
        return 1 if problems else 0


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=500, help="under faults")
    parser.add_argument("--calm", type=int, default=60, help="before, without faults")
    parser.add_argument("--pause", type=float, default=5.0, help="seconds between two faults")
    options = parser.parse_args()
    raise SystemExit(asyncio.run(_run(options.jobs, options.calm, options.pause)))


if __name__ == "__main__":
    main()
