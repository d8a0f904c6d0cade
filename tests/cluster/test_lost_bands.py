"""Workers that are lost in the middle of a large picture: the next one goes on at the last band."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from testkit.cluster import Cluster, MemberProcess, healthy, running_cluster
from testkit.large_jobs import PNG, SETTINGS, LargeJob, alone, tall_photo, worker
from testkit.photos import resized

WEBP = PNG | {"format": "webp"}
"""Its encoder needs all of the network's rows at the end."""
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(900),  # minutes of inference, on a busy machine
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(
    tmp_path_factory: pytest.TempPathFactory, models_dir: Path
) -> AsyncIterator[Cluster]:
    """A cluster with one API server and no worker."""
    folder = tmp_path_factory.mktemp("cluster")
    made = Cluster(folder, models_dir, servers=1, workers=0, settings=SETTINGS)
    async with running_cluster(made) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def tall() -> bytes:
    return tall_photo()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def wanted(
    tmp_path_factory: pytest.TempPathFactory, models_dir: Path, tall: bytes
) -> dict[str, str]:
    """The digests of the results that one machine makes, by format."""
    folder = tmp_path_factory.mktemp("alone")
    return {
        fields["format"]: await alone(folder / fields["format"], models_dir, tall, **fields)
        for fields in (PNG, WEBP)
    }


@pytest.mark.parametrize("fields", [PNG, WEBP], ids=["png", "webp"])
async def test_killed_workers_cost_their_band_and_the_result_is_one_machines(
    cluster: Cluster, tall: bytes, tmp_path: Path, wanted: dict[str, str], fields: dict[str, str]
) -> None:
    first, second, third = (worker(cluster, tmp_path, name) for name in ("one", "two", "three"))
    try:
        async with aiohttp.ClientSession() as session:
            job = await LargeJob.submit(cluster, session, tall, **fields)
            await first.start()
            lease = await job.kept()
            await first.kill()
            await second.start()
            # The first loss cost a band and no more, so this is not the second one of two.
            await job.kept(after=lease)
            await second.kill()
            await third.start()
            seconds = (await job.completed())["seconds"]
            assert await job.digest() == wanted[fields["format"]]
            assert seconds["resumed"] > 0
            await job.are_gone()
        for member in (second, third):
            log = member.log.read_text("utf-8")
            assert log.count("job's bands were brought") == log.count("job goes on") == 1
    finally:
        await asyncio.gather(first.kill(), second.kill(), third.stop())


@contextlib.asynccontextmanager
async def begun(
    cluster: Cluster, tall: bytes, folder: Path
) -> AsyncIterator[tuple[LargeJob, MemberProcess, MemberProcess]]:
    """Yield a job of which a first worker has kept a band, and a second worker to start."""
    first, second = (worker(cluster, folder, name) for name in ("one", "two"))
    try:
        async with aiohttp.ClientSession() as session:
            job = await LargeJob.submit(cluster, session, tall, **PNG)
            await first.start()
            await job.kept()
            yield job, first, second
    finally:
        await asyncio.gather(first.kill(), second.stop())


async def test_a_worker_that_is_stopped_hands_its_bands_on(
    cluster: Cluster, tall: bytes, tmp_path: Path, wanted: dict[str, str]
) -> None:
    async with begun(cluster, tall, tmp_path) as (job, first, second):
        assert await first.stop() == 0
        await second.start()
        seconds = (await job.completed())["seconds"]
        assert await job.digest() == wanted[PNG["format"]]
        assert seconds["resumed"] > 0
        await job.are_gone()


async def test_damaged_bands_are_made_again(
    cluster: Cluster, tall: bytes, tmp_path: Path, wanted: dict[str, str]
) -> None:
    async with begun(cluster, tall, tmp_path) as (job, first, second):
        await first.kill()
        for path in job.bands.iterdir():
            if not path.name.startswith("checkpoint"):
                content = bytearray(path.read_bytes())
                content[len(content) // 2] ^= 1
                path.write_bytes(content)
        await second.start()
        seconds = (await job.completed())["seconds"]
        assert await job.digest() == wanted[PNG["format"]]
        assert "resumed" not in seconds
        assert "job's band is damaged" in second.log.read_text("utf-8")
        await job.are_gone()


@pytest.mark.parametrize("lost", [False, True])
async def test_a_cancelled_jobs_bands_are_deleted(
    cluster: Cluster, tall: bytes, tmp_path: Path, lost: bool
) -> None:
    async with begun(cluster, tall, tmp_path) as (job, first, _):
        if lost:
            await first.kill()
        await job.cancel()
        await job.are_gone()
        if not lost:
            assert await first.stop() == 0
            assert not job.bands.exists()


async def test_a_job_of_one_band_stores_none(cluster: Cluster, tmp_path: Path) -> None:
    first = worker(cluster, tmp_path, "one")
    try:
        await first.start()
        await healthy(cluster.servers[0].url, 1)
        async with aiohttp.ClientSession() as session:
            job = await LargeJob.submit(cluster, session, resized(300, 200), **PNG)
            await job.completed()
            assert not job.bands.exists()
    finally:
        await first.stop()
