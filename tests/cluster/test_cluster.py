"""A cluster in processes of its own, as its callers see it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from PIL import Image

from testkit.cluster import Cluster, MemberProcess, healthy, running_cluster
from testkit.history import Caller, History
from testkit.paths import DATA
from testkit.services import FAST, make_config, running, submit
from testkit.waiting import until

SETTINGS: dict[str, object] = {
    "cluster.lease_seconds": 2,
    "upscaler.default_model": FAST["model_name"],
    "upscaler.max_crashes": 20,
    "server.drain_seconds": 5,
}
API = "/api/v1"


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(
    tmp_path_factory: pytest.TempPathFactory, models_dir: Path
) -> AsyncIterator[Cluster]:
    """A cluster with two API servers and two workers; the last test ends the workers."""
    folder = tmp_path_factory.mktemp("cluster")
    made = Cluster(folder, models_dir, workers=2, settings=SETTINGS)
    async with running_cluster(made) as cluster:
        await healthy(cluster.servers[0].url, 2)
        yield cluster


async def digests(tmp_path: Path, models_dir: Path, pictures: list[Path]) -> list[str]:
    """Return the digests of the results that a service on one machine makes."""
    async with running(make_config(tmp_path / "alone", models_dir)) as service:
        jobs = [await submit(service, picture) for picture in pictures]
        for job in jobs:
            await service.jobs.wait(job.id)
        return [(await service.jobs.result(job.id)).sha256 for job in jobs]


def photos(folder: Path, count: int) -> list[Path]:
    """Write photos of 48×32 pixels, each another one."""
    paths = []
    with Image.open(DATA / "coffee.jpg") as photo:
        for number in range(count):
            path = folder / f"photo-{number}.png"
            photo.crop((number * 40, 0, number * 40 + 200, 130)).resize((48, 32)).save(path)
            paths.append(path)
    return paths


def command(member: MemberProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``upscaled`` with the settings of a member."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("UPSCALED_")}
    return subprocess.run(
        [sys.executable, "-m", "upscaled", *arguments, "--config", str(member.config)],
        capture_output=True, text=True, check=False, env=env, timeout=60,
    )  # fmt: skip


async def told(session: aiohttp.ClientSession, url: str, **options: Any) -> Any:
    """Return what a server answers to a GET."""
    async with session.get(url, **options) as answer:
        return await answer.json()


async def test_settings_that_contradict_another_members_are_refused_with_both_values(
    cluster: Cluster, tmp_path: Path
) -> None:
    for setting, value, sentence in (
        (
            "storage.result_ttl_hours",
            1,
            "storage.result_ttl_hours is 1.0 here and 24.0 on server-1",
        ),
        ("cluster.blobs", str(tmp_path / "other"), "is empty; the cluster of this database"),
    ):
        given = json.loads(cluster.servers[0].config.read_text())
        section, key = setting.split(".")
        given[section][key] = value
        flat = {f"{s}.{k}": v for s, keys in given.items() for k, v in keys.items()}
        other = MemberProcess(tmp_path / f"other-{key}", "serve", flat)
        done = await asyncio.to_thread(command, other, "serve")
        assert done.returncode == 2
        assert sentence in done.stderr


async def test_killed_workers_servers_and_databases_lose_no_accepted_job(
    cluster: Cluster, tmp_path: Path, models_dir: Path
) -> None:
    pictures = photos(tmp_path, 6)
    contents = [picture.read_bytes() for picture in pictures]
    expected = await digests(tmp_path, models_dir, pictures)
    history = History()
    servers = [server.url + API for server in cluster.servers]
    wanted: dict[str, str] = {}

    async def call(first: int) -> None:
        # One after the other, so that submissions come all through the faults.
        for number in range(first, 24, 6):
            which = number % len(pictures)
            caller = Caller(servers, history, seed=number)
            job_id = await caller.upscale(contents[which], FAST, cancel=number % 8 == 7)
            wanted[job_id] = expected[which]

    async def spoil() -> None:
        worker, server = cluster.workers[0], cluster.servers[0]
        await until(lambda: any(answer.state == "processing" for answer in history.answers))
        await worker.kill()
        await asyncio.to_thread(cluster.postgres.kill)
        await asyncio.to_thread(cluster.postgres.start)
        await server.stop()
        await asyncio.gather(server.start(), worker.start())

    async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
        tasks.create_task(spoil())
        for first in range(6):
            tasks.create_task(call(first))
    assert history.problems(wanted) == []
    assert len(wanted) == 24


async def test_every_server_tells_the_metrics_of_every_worker(
    cluster: Cluster, tmp_path: Path
) -> None:
    (photo,) = photos(tmp_path, 1)
    one, two = cluster.servers
    names = {worker.name for worker in cluster.workers}

    async def samples(session: aiohttp.ClientSession, url: str) -> dict[str, float]:
        async with session.get(f"{url}/metrics") as answer:
            assert answer.status == 200
            lines = (await answer.text()).splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def held(found: dict[str, float]) -> float:
        return sum(found[f'upscaled_worker_jobs{{worker="{name}"}}'] for name in names)

    def ended(found: dict[str, float]) -> dict[str, float]:
        name = 'upscaled_worker_jobs_ended_total{{state="completed",worker="{}"}}'
        return {worker: found[name.format(worker)] for worker in names}

    async with aiohttp.ClientSession() as session:
        before = ended(await samples(session, one.url))
        for _ in range(3):
            form = aiohttp.FormData(FAST)
            form.add_field("image", photo.read_bytes(), filename="photo.png")
            async with session.post(f"{one.url}{API}/upscale?wait=45", data=form) as answer:
                assert (await answer.json())["status"] == "completed"
        async with asyncio.timeout(20):
            while True:  # workers tell them with their signs of life
                found = await samples(session, two.url)
                grown = {name: count - before[name] for name, count in ended(found).items()}
                # Or more, of jobs before that were not told yet. A worker holds an ended job until
                # its files are deleted.
                if sum(grown.values()) >= 3 and not held(found):
                    break
        for name in names:
            busy = found[f'upscaled_worker_busy_seconds_total{{worker="{name}"}}']
            assert (busy > 0) == (ended(found)[name] > 0)
        assert found['upscaled_cluster_members{role="server"}'] == 2
        assert found['upscaled_cluster_members{role="worker"}'] == 2


async def test_any_server_answers_for_every_job_and_drained_workers_end(
    cluster: Cluster, tmp_path: Path, models_dir: Path
) -> None:
    (photo,) = photos(tmp_path, 1)
    content = photo.read_bytes()
    (wanted,) = await digests(tmp_path, models_dir, [photo])
    one, two = (server.url + API for server in cluster.servers)
    async with aiohttp.ClientSession() as session:
        form = aiohttp.FormData(FAST)
        form.add_field("image", content, filename="photo.png")
        async with session.post(one + "/upscale", data=form) as answer:
            assert answer.status == 202
            job_id = (await answer.json())["job_id"]
        async with session.get(f"{two}/events/{job_id}") as events:
            states = [
                json.loads(line[5:])["status"]
                async for line in events.content
                if line.startswith(b"data:")
            ]
        assert states[-1] == "completed"
        listed = await told(session, two + "/jobs")
        assert listed["jobs"][0]["job_id"] == job_id
        url = f"{two}/download/{job_id}?keep=true"
        async with session.get(url, headers={"Range": "bytes=5-9"}) as answer:
            part = await answer.read()
            assert (answer.status, len(part)) == (206, 5)
        async with session.get(f"{one}/thumbnail/{job_id}") as answer:
            assert answer.status == 200
        async with session.get(f"{one}/events") as events:
            async with session.get(f"{two}/download/{job_id}") as answer:
                result = await answer.read()
            assert hashlib.sha256(result).hexdigest() == wanted
            assert result[5:10] == part
            async with asyncio.timeout(30):
                async for line in events.content:
                    if line.startswith(b"data:") and "result_gone" in json.loads(line[5:]):
                        break
        status = await told(session, f"{one}/status/{job_id}")
        assert status["result_gone"] == "downloaded"

        for worker in cluster.workers:
            done = await asyncio.to_thread(command, worker, "cluster", "drain", worker.name)
            assert done.returncode == 0, done.stderr
        for worker in cluster.workers:
            assert worker.process is not None
            async with asyncio.timeout(20):
                assert await worker.process.wait() == 0
        async with session.get(two + "/health") as answer:
            health = await answer.json()
            assert answer.status == 503
        assert "No worker is there" in health["reason"]
        form = aiohttp.FormData(FAST)
        form.add_field("image", content, filename="photo.png")
        async with session.post(two + "/upscale", data=form) as answer:
            waiting = (await answer.json())["job_id"]
        async with session.post(f"{one}/cancel/{waiting}") as answer:
            assert answer.status == 200
        assert (await told(session, f"{two}/status/{waiting}"))["status"] == "cancelled"
    shown = await asyncio.to_thread(command, cluster.servers[0], "cluster", "status")
    assert shown.returncode == 1
    assert "Workers: none" in shown.stdout
    assert "server-2: on" in shown.stdout
