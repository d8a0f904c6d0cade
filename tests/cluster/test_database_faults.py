"""A database that falls silent, and one whose standby takes over."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

from testkit.cluster import Cluster, MemberProcess, healthy, running_cluster
from testkit.cuttable_link import CuttableLink
from testkit.history import Caller, History
from testkit.paths import DATA
from testkit.postgres import PostgresServer
from testkit.services import FAST, make_config, running, submit
from testkit.waiting import until

API = "/api/v1"
SETTINGS: dict[str, object] = {
    "cluster.lease_seconds": 2,
    "upscaler.default_model": FAST["model_name"],
    "upscaler.max_crashes": 20,
    "server.drain_seconds": 5,
}


async def test_callers_of_a_server_whose_database_falls_silent_are_told_so(
    tmp_path: Path, models_dir: Path
) -> None:
    made = Cluster(tmp_path, models_dir, servers=0, workers=0, settings=SETTINGS)
    async with running_cluster(made) as cluster:
        link = CuttableLink(cluster.postgres.port)
        await link.start()
        through = cluster.postgres.url().replace(f":{cluster.postgres.port}/", f":{link.port}/")
        server = MemberProcess(
            tmp_path / "server", "serve", cluster.settings | {"cluster.database_url": through}
        )
        try:
            await server.start()
            async with aiohttp.ClientSession(server.url) as session:
                form = aiohttp.FormData(FAST)
                form.add_field("image", (DATA / "coffee.jpg").read_bytes(), filename="photo.jpg")
                async with session.post(API + "/upscale", data=form) as answer:
                    job_id = (await answer.json())["job_id"]
                link.cut()
                for _ in range(3):  # each caller, not only the first
                    async with asyncio.timeout(2.5), session.get(f"{API}/health") as answer:
                        told = await answer.json()
                        assert (answer.status, told["status"]) == (503, "failing")
                        assert told["reason"].startswith("The database does not answer now.")
                        assert told["queue_length"] == 1
                async with asyncio.timeout(60), session.get(f"{API}/status/{job_id}") as answer:
                    told = await answer.json()
                    assert (answer.status, told["code"]) == (503, "store_unavailable")
                    assert answer.headers["Retry-After"] == "5"
                link.heal()
                async with asyncio.timeout(60):
                    while True:
                        async with session.get(f"{API}/status/{job_id}") as answer:
                            if answer.status == 200:
                                assert (await answer.json())["status"] == "queued"
                                break
        finally:
            link.heal()
            await server.stop()
            await link.close()


@contextlib.asynccontextmanager
async def standby_of(primary: PostgresServer) -> AsyncIterator[PostgresServer]:
    """Run a synchronous standby: a commit returns when both servers have it."""
    standby = PostgresServer(primary=primary)
    try:
        await asyncio.to_thread(standby.start)
        await asyncio.to_thread(primary.execute, "ALTER SYSTEM SET synchronous_standby_names = '*'")
        await asyncio.to_thread(primary.execute, "SELECT pg_reload_conf()")
        async with asyncio.timeout(30):
            states = "SELECT sync_state FROM pg_stat_replication"
            while await asyncio.to_thread(primary.execute, states) != [("sync",)]:
                pass
        yield standby
    finally:
        await asyncio.to_thread(standby.close)


async def test_nothing_accepted_is_lost_when_a_standby_takes_over(
    tmp_path: Path, models_dir: Path, thumbnail: Path
) -> None:
    async with running(make_config(tmp_path / "alone", models_dir)) as service:
        job = await submit(service, thumbnail)
        await service.jobs.wait(job.id)
        expected = (await service.jobs.result(job.id)).sha256
    primary = PostgresServer()
    await asyncio.to_thread(primary.start)
    try:
        async with standby_of(primary) as standby:
            hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
            url = f"postgresql://upscaled@{hosts}/postgres?target_session_attrs=read-write"
            made = Cluster(
                tmp_path, models_dir, workers=2, settings={**SETTINGS, "cluster.database_url": url}
            )
            async with running_cluster(made) as cluster:
                await healthy(cluster.servers[0].url, 2)
                await _fail_over(cluster, primary, standby, thumbnail.read_bytes(), expected)
    finally:
        await asyncio.to_thread(primary.close)


async def _fail_over(
    cluster: Cluster,
    primary: PostgresServer,
    standby: PostgresServer,
    picture: bytes,
    expected: str,
) -> None:
    history = History()
    servers = [server.url + API for server in cluster.servers]
    wanted: dict[str, str] = {}

    async def call(first: int) -> None:
        for number in range(first, 24, 6):
            caller = Caller(servers, history, seed=number)
            wanted[await caller.upscale(picture, FAST, cancel=number % 8 == 7)] = expected

    async def replace() -> None:
        await until(lambda: any(answer.state == "processing" for answer in history.answers))
        await asyncio.to_thread(primary.kill)
        await asyncio.to_thread(standby.promote)

    async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
        tasks.create_task(replace())
        for first in range(6):
            tasks.create_task(call(first))
    assert history.problems(wanted) == []
    assert len(wanted) == 24
