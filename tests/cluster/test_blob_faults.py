"""Shared files that fail for a while: jobs wait, callers are told, and no picture is half a one."""

from __future__ import annotations

import asyncio
import hashlib
import io
import shutil
from base64 import b64decode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from PIL import Image

from testkit.cluster import (
    Cluster,
    MemberProcess,
    healthy,
    running_cluster,
    submitted,
    until_state,
)
from testkit.faulty_s3 import Fault, FaultyS3
from testkit.paths import DATA
from testkit.services import FAST

API = "/api/v1"
SETTINGS: dict[str, object] = {
    "cluster.lease_seconds": 2,
    "upscaler.default_model": FAST["model_name"],
    "server.drain_seconds": 5,
}
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def s3() -> AsyncIterator[FaultyS3]:
    async with FaultyS3().running() as store:
        with pytest.MonkeyPatch.context() as environment:
            for name, value in store.environment().items():
                environment.setenv(name, value)
            yield store


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(
    tmp_path_factory: pytest.TempPathFactory, models_dir: Path, s3: FaultyS3
) -> AsyncIterator[Cluster]:
    """A cluster with one API server, one worker, and a bucket."""
    settings = {**SETTINGS, "cluster.blobs": s3.url}
    folder = tmp_path_factory.mktemp("cluster")
    made = Cluster(folder, models_dir, servers=1, workers=1, settings=settings)
    async with running_cluster(made) as cluster:
        await healthy(cluster.servers[0].url, 1)
        yield cluster


@pytest_asyncio.fixture(loop_scope="module")
async def session(cluster: Cluster) -> AsyncIterator[aiohttp.ClientSession]:
    """Requests to the API server."""
    async with aiohttp.ClientSession(cluster.servers[0].url) as session:
        yield session


@pytest.fixture(scope="module")
def photo() -> bytes:
    """A photo whose result takes several requests of the store."""
    file = io.BytesIO()
    with Image.open(DATA / "coffee.jpg") as picture:
        picture.resize((640, 480)).save(file, "PNG")
    return file.getvalue()


async def posted(session: aiohttp.ClientSession, picture: bytes) -> aiohttp.ClientResponse:
    form = aiohttp.FormData(FAST | {"scale": "4"})
    form.add_field("image", picture, filename="photo.png")
    async with session.post(API + "/upscale", data=form) as answer:
        await answer.read()
        return answer


async def downloaded(session: aiohttp.ClientSession, job_id: str) -> tuple[bytes, bytes]:
    """Return the digests of a result: of what came, and the one recorded with the job."""
    async with session.get(f"{API}/download/{job_id}?keep=true") as answer:
        assert answer.status == 200
        wanted = answer.headers["Repr-Digest"].removeprefix("sha-256=:").removesuffix(":")
        return hashlib.sha256(await answer.read()).digest(), b64decode(wanted)


async def jobs(session: aiohttp.ClientSession) -> list[Any]:
    async with session.get(API + "/jobs") as answer:
        return list((await answer.json())["jobs"])


@pytest.mark.parametrize(
    ("fault", "status", "code", "sentence"),
    [
        (Fault.ERRORS, 503, "store_unavailable", "object store does not answer now; try again"),
        (Fault.SILENCE, 503, "store_unavailable", "object store does not answer now; try again"),
        (Fault.NO_BUCKET, 503, "store_unavailable", "has no such bucket now; try again in 30 s."),
        (Fault.FULL, 507, "insufficient_storage", "The object store is full; try again later."),
    ],
)
async def test_a_submission_that_can_t_be_stored_is_told_why_and_leaves_nothing(
    cluster: Cluster,
    session: aiohttp.ClientSession,
    s3: FaultyS3,
    photo: bytes,
    fault: Fault,
    status: int,
    code: str,
    sentence: str,
) -> None:
    before = await jobs(session)
    with s3.failing(fault):
        answer = await posted(session, photo)
    told = await answer.json()
    assert (answer.status, told["code"]) == (status, code)
    assert sentence in told["error"]
    assert int(answer.headers["Retry-After"]) > 0
    assert await jobs(session) == before
    data = cluster.servers[0].config.parent / "data"
    assert [path for path in data.rglob("*") if path.is_file() and "input" in path.name] == []


@pytest.mark.parametrize("fault", [Fault.ERRORS, Fault.FULL, Fault.NO_BUCKET])
async def test_a_result_waits_until_the_store_takes_it(
    cluster: Cluster, session: aiohttp.ClientSession, s3: FaultyS3, photo: bytes, fault: Fault
) -> None:
    worker = cluster.workers[0]
    job_id = await submitted(session, API, photo, scale="4")
    await until_state(session, API, job_id, "processing")
    said = len(worker.log.read_text("utf-8"))
    with s3.failing(fault):
        await worker.said("job's end", said)
        async with session.get(f"{API}/status/{job_id}") as answer:
            assert (await answer.json())["status"] == "processing"
    await until_state(session, API, job_id, "completed")
    found, wanted = await downloaded(session, job_id)
    assert found == wanted


@pytest.mark.parametrize("fault", [Fault.ERRORS, Fault.NO_BUCKET])
async def test_a_job_waits_until_its_upload_can_be_read(
    cluster: Cluster, session: aiohttp.ClientSession, s3: FaultyS3, photo: bytes, fault: Fault
) -> None:
    worker = cluster.workers[0]
    said = len(worker.log.read_text("utf-8"))
    with s3.failing(fault, methods=("GET", "HEAD")):
        job_id = await submitted(session, API, photo, scale="4")
        await worker.said("job's files can't be read", said)
    await until_state(session, API, job_id, "completed")


async def test_a_download_continues_where_the_store_breaks_off(
    cluster: Cluster, session: aiohttp.ClientSession, s3: FaultyS3, photo: bytes
) -> None:
    job_id = await submitted(session, API, photo, scale="4")
    await until_state(session, API, job_id, "completed")
    before = s3.faults
    with s3.failing(Fault.CUT):
        found, wanted = await downloaded(session, job_id)
    assert found == wanted
    assert s3.faults > before


async def test_a_download_that_can_t_begin_is_told_so_and_can_be_repeated(
    cluster: Cluster, session: aiohttp.ClientSession, s3: FaultyS3, photo: bytes
) -> None:
    job_id = await submitted(session, API, photo, scale="4")
    await until_state(session, API, job_id, "completed")
    for methods in (("GET", "HEAD"), ("GET",)):
        with s3.failing(Fault.ERRORS, methods):
            async with session.get(f"{API}/download/{job_id}") as answer:
                told = await answer.json()
        assert (answer.status, told["code"]) == (503, "store_unavailable")
        assert answer.headers["Retry-After"] == "5"
    found, wanted = await downloaded(session, job_id)
    assert found == wanted


async def test_health_tells_of_a_store_that_fails(
    cluster: Cluster, session: aiohttp.ClientSession, s3: FaultyS3
) -> None:
    async def health(status: int) -> Any:
        async with asyncio.timeout(30):
            while True:
                async with session.get(API + "/health") as answer:
                    told = await answer.json()
                    if answer.status == status:
                        return told
                await asyncio.sleep(0.1)  # nothing tells when health changes

    with s3.failing(Fault.SILENCE):
        told = await health(503)
        assert told["reason"] == "The shared files do not answer within 5 s."
    await health(200)


async def test_members_that_start_while_the_store_fails_wait_for_it(
    tmp_path: Path, cluster: Cluster, s3: FaultyS3
) -> None:
    worker = MemberProcess(tmp_path / "late", "work", cluster.settings)
    server = MemberProcess(tmp_path / "unwanted", "serve", cluster.settings)
    with s3.failing(Fault.ERRORS):
        starts = [asyncio.create_task(one.start(), name=one.name) for one in (worker, server)]
        for one in (worker, server):
            await one.said("The start waits for database and blobs, for up to ")
            assert "object store does not answer now" in one.log.read_text("utf-8")
        assert await server.stop() == 0
        with pytest.raises(RuntimeError, match="unwanted did not start"):
            await starts[1]
    try:
        await starts[0]
        await healthy(cluster.servers[0].url, 2)
    finally:
        assert await worker.stop() == 0


async def test_a_folder_that_is_not_mounted_ends_no_job(
    tmp_path: Path, models_dir: Path, photo: bytes
) -> None:
    made = Cluster(tmp_path, models_dir, servers=1, workers=1, settings=SETTINGS)
    async with running_cluster(made) as cluster:
        await healthy(cluster.servers[0].url, 1)
        async with aiohttp.ClientSession(cluster.servers[0].url) as session:
            job_id = await submitted(session, API, photo, scale="4")
            await until_state(session, API, job_id, "processing")
            away = cluster.blobs.rename(tmp_path / "away")
            cluster.blobs.mkdir()
            refused = await posted(session, photo)
            assert refused.status == 503
            assert "may not be mounted" in (await refused.json())["error"]
            await cluster.workers[0].said("job's end waits for the stores")
            assert [path for path in cluster.blobs.rglob("*") if path.is_file()] == []
            shutil.rmtree(cluster.blobs)
            away.rename(cluster.blobs)
            await until_state(session, API, job_id, "completed")
            found, wanted = await downloaded(session, job_id)
            assert found == wanted
