"""One large picture on several workers at the same time, and what goes wrong with that."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import numpy as np
import psycopg
import pytest
import pytest_asyncio
from PIL import Image

from testkit.cluster import Cluster, MemberProcess, healthy, running_cluster
from testkit.large_jobs import PNG, SETTINGS, LargeJob, alone, tall_photo, worker
from testkit.paths import DATA
from upscaled import serial
from upscaled.blobs.folder import FolderBlobs
from upscaled.cluster import handed_in, keys, members, offered_bands, work_queue
from upscaled.cluster.members import WORKER, Member
from upscaled.cluster.offered_bands import Claim
from upscaled.imaging import Band, BandRows, EncodedBody, Prepared, StripPart
from upscaled.imaging.encode.png import PngEncoder
from upscaled.imaging.metadata.attached import Attached
from upscaled.imaging.raw import strips
from upscaled.pictures import RawImage
from upscaled.pipeline.result import finish_options

Connection = psycopg.AsyncConnection[tuple[object, ...]]
LEASE = 2.0
BEGUN = "makes a band of another worker's picture"
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
async def wanted(tmp_path_factory: pytest.TempPathFactory, models_dir: Path, tall: bytes) -> str:
    """The digest of the result that one machine makes."""
    return await alone(tmp_path_factory.mktemp("alone") / "png", models_dir, tall, **PNG)


@contextlib.asynccontextmanager
async def connected(cluster: Cluster) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(
        cluster.postgres.url(), autocommit=True
    ) as connection:
        yield connection


async def describes_its_devices(connection: Connection, name: str) -> Member:
    """Wait until a worker's heartbeats tell what it can help with; return it."""
    while True:
        found = await connection.execute("SELECT document FROM members WHERE id = %s", (name,))
        row = await found.fetchone()
        assert row is not None
        member = serial.decode(str(row[0]), Member)
        if member.pixel_keys:
            return member
        await asyncio.sleep(0.05)


async def has_read_members(connection: Connection, name: str) -> None:
    """Wait until a worker has sent two heartbeats, with each of which it reads the members."""

    async def heard() -> object:
        found = await connection.execute("SELECT seen FROM members WHERE id = %s", (name,))
        return await found.fetchone()

    for _ in range(3):
        before = await heard()
        while await heard() == before:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


class Pair:
    """Two workers with a picture of three bands, of which one has the job and the other helps."""

    def __init__(self, job: LargeJob, workers: dict[str, MemberProcess]) -> None:
        self.job = job
        self._workers = workers

    async def owner(self) -> MemberProcess:
        return self._workers[await self.job.owner()]

    async def helper(self) -> MemberProcess:
        """Wait until it does a band."""
        return self._workers[await self.job.helper()]


@pytest_asyncio.fixture(loop_scope="module")
async def pair(cluster: Cluster, tall: bytes, tmp_path: Path) -> AsyncIterator[Pair]:
    workers = {name: worker(cluster, tmp_path, name) for name in ("one", "two")}
    try:
        await asyncio.gather(*(member.start() for member in workers.values()))
        await healthy(cluster.servers[0].url, 2)
        async with connected(cluster) as connection:
            for name in workers:
                await describes_its_devices(connection, name)
            for name in workers:
                await has_read_members(connection, name)
        async with aiohttp.ClientSession() as session:
            yield Pair(await LargeJob.submit(cluster, session, tall, **PNG), workers)
    finally:
        await asyncio.gather(*(member.stop() for member in workers.values()))


async def test_two_workers_make_one_picture_with_the_bytes_of_one(pair: Pair, wanted: str) -> None:
    helper = await pair.helper()
    owner = await pair.owner()
    assert owner is not helper
    assert f"helps with {pair.job.id}" in await status(owner)
    receipt = await pair.job.completed()
    assert await pair.job.digest() == wanted
    assert receipt["engine"]["devices"] == ["cpu", "another worker"]
    (brought, *_) = lines_with("another worker did a band", owner)
    assert "encoded=true" in brought.lower()
    assert "a band is made" in helper.log.read_text("utf-8")
    assert await pair.job.offers() == 0
    await pair.job.are_gone()


def lines_with(words: str, member: MemberProcess) -> list[str]:
    """Return the lines of a member's log that contain ``words``."""
    return [line for line in member.log.read_text("utf-8").splitlines() if words in line]


async def status(member: MemberProcess) -> str:
    """Return what ``upscaled cluster status`` says, once some worker helps."""
    async with asyncio.timeout(60):
        while True:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "upscaled", "cluster", "status", "--config",
                str(member.config), stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            said = (await process.communicate())[0].decode()
            if "helps with" in said:  # heartbeats tell it
                return said


async def test_a_helper_that_is_killed_costs_its_band(pair: Pair, wanted: str) -> None:
    helper = await pair.helper()
    await helper.said(BEGUN)
    await helper.kill()
    await pair.job.completed()
    assert await pair.job.digest() == wanted
    assert "another worker did a band" not in (await pair.owner()).log.read_text("utf-8")
    assert await pair.job.offers() == 0
    await pair.job.are_gone()


async def test_after_its_worker_is_killed_the_helper_goes_on(pair: Pair, wanted: str) -> None:
    helper = await pair.helper()
    owner = await pair.owner()
    await helper.said(BEGUN)
    await owner.kill()
    await pair.job.completed()
    assert await pair.owner() is helper
    assert await pair.job.digest() == wanted
    assert await pair.job.offers() == 0
    await pair.job.are_gone()


async def test_a_helper_takes_a_job_that_waits_after_its_band(
    pair: Pair, cluster: Cluster, wanted: str
) -> None:
    helper = await pair.helper()
    small = io.BytesIO()
    with Image.open(DATA / "coffee.jpg") as photo:
        photo.resize((64, 48)).save(small, "PNG")
    async with aiohttp.ClientSession() as session:
        job = await LargeJob.submit(cluster, session, small.getvalue())
        await job.completed()
        assert await job.owner() == helper.name
    await pair.job.completed()
    assert await pair.job.digest() == wanted
    assert "another worker did a band" in (await pair.owner()).log.read_text("utf-8")
    await pair.job.are_gone()


async def test_a_cancelled_picture_is_left_by_all_workers(pair: Pair) -> None:
    helper = await pair.helper()
    await helper.said(BEGUN)
    await pair.job.cancel()
    await helper.said("a band is no longer needed")
    assert await pair.job.offers() == 0
    await pair.job.are_gone()


class FalseHelper:
    """A member that claims bands as a worker does, and hands in what a test says."""

    def __init__(self, cluster: Cluster) -> None:
        self._blobs = FolderBlobs(cluster.blobs)
        self._cluster = cluster
        self._number = 0
        self._member = Member("false", WORKER, "nowhere", os.getpid())

    @contextlib.asynccontextmanager
    async def joined(self, model: MemberProcess) -> AsyncIterator[None]:
        """Be a member like ``model`` for the length of the block, and known to that one."""
        async with connected(self._cluster) as connection:
            self._number = await work_queue.register(connection)
            like = await describes_its_devices(connection, model.name)
            self._member = replace(like, id="false", jobs=(), helps=())
        beats = asyncio.create_task(self._beat())
        try:
            async with connected(self._cluster) as connection:
                await has_read_members(connection, model.name)
            yield
        finally:
            beats.cancel()
            await asyncio.wait([beats])
            async with connected(self._cluster) as connection:
                await members.remove(connection, "false")

    async def _beat(self) -> None:
        async with connected(self._cluster) as connection:
            while True:
                await work_queue.renew(connection, self._number)
                await members.write(connection, self._member, self._number)
                await asyncio.sleep(LEASE / 8)  # often enough for the lease not to run out

    async def claim(self) -> Claim:
        """Wait for an offer and claim it."""
        key, models = self._member.pixel_keys[0], self._member.models
        async with asyncio.timeout(120), connected(self._cluster) as connection:
            while True:
                async with connection.transaction():
                    claim = await offered_bands.claim(
                        connection, self._number, key, models, without=(), lease_seconds=LEASE
                    )
                if claim is not None:
                    return claim
                await asyncio.sleep(0.05)

    async def hand_in_black(self, claim: Claim, folder: Path) -> bool:
        """Hand in a band that is well formed and black."""
        number, (top, _) = claim.lease_number, claim.rows
        path = folder / "band"
        sha256 = await asyncio.to_thread(black_band, claim, folder, path)
        key = keys.helped_band(claim.job.id, number, self._number, top, sha256)
        await self._blobs.put(key, path)
        async with connected(self._cluster) as connection:
            return await offered_bands.complete(connection, claim, sha256, 1.0)


def black_band(claim: Claim, folder: Path, path: Path) -> str:
    """Write what a worker hands in of a band, but black; return its digest."""
    size, source = claim.job.request.output_size, claim.job.input_size
    own = BandRows.of(Band(*claim.rows), source, size, finish_options(claim.job.request))
    top, bottom = own.body
    assert own.body == own.native  # at the network's own scale, a PNG's bands are apart
    native, body = RawImage(folder / "none", size), folder / "body"
    native.path.touch()
    encoder = PngEncoder(
        size,
        3,
        Attached(Prepared(RawImage(folder, source), None, None), finish_options(claim.job.request)),
    )
    made = [
        encoder.strip(np.zeros((last - first, size.width, 3), np.uint8), top + first)
        for first, last in strips(bottom - top, 3 * size.width)
    ]
    body.write_bytes(b"".join(strip.content for strip in made))
    parts = tuple(StripPart(len(strip.content), strip.check, strip.length) for strip in made)
    return handed_in.write(path, native, own, EncodedBody(body, 0, top, bottom, parts, 1.0))


async def test_a_forged_band_is_refused_and_made_again(
    cluster: Cluster, tall: bytes, tmp_path: Path, wanted: str
) -> None:
    owner, helper = worker(cluster, tmp_path, "one"), FalseHelper(cluster)
    try:
        await owner.start()
        await healthy(cluster.servers[0].url, 1)
        async with aiohttp.ClientSession() as session, helper.joined(owner):
            job = await LargeJob.submit(cluster, session, tall, **PNG)
            claim = await helper.claim()
            assert await helper.hand_in_black(claim, tmp_path)
            await owner.said("another worker did a band")
            await job.completed()
            assert await job.digest() == wanted
            assert "attempt failed" in owner.log.read_text("utf-8")
            assert await job.offers() == 0
            await job.are_gone()
    finally:
        await owner.stop()
