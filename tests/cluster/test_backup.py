"""A cluster that is restored from pg_dump and a copy of its blobs of another moment."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import time
from pathlib import Path

import aiohttp
from PIL import Image

from testkit.cluster import Cluster
from testkit.paths import DATA
from testkit.postgres import programs
from testkit.services import FAST
from testkit.waiting import until

API = "/api/v1"
SETTINGS: dict[str, object] = {
    "cluster.lease_seconds": 2,
    "upscaler.default_model": FAST["model_name"],
    "server.drain_seconds": 1,
    "features.web": False,
}


def photo(folder: Path, number: int) -> bytes:
    file = folder / f"photo-{number}.png"
    with Image.open(DATA / "coffee.jpg") as whole:
        whole.crop((number * 50, 0, number * 50 + 200, 200)).resize((40, 40)).save(file)
    return file.read_bytes()


async def submitted(session: aiohttp.ClientSession, url: str, picture: bytes) -> str:
    form = aiohttp.FormData(FAST)
    form.add_field("image", picture, filename="photo.png")
    async with session.post(url + "/upscale", data=form) as answer:
        assert answer.status == 202, await answer.text()
        return str((await answer.json())["job_id"])


async def ended(session: aiohttp.ClientSession, url: str, job_id: str) -> str:
    async with asyncio.timeout(90):
        while True:
            async with session.get(f"{url}/status/{job_id}?wait=20") as answer:
                told = await answer.json()
            if told["status"] not in {"queued", "processing"}:
                return f"{told['status']} {told.get('error') or ''}".strip()


async def fetched(session: aiohttp.ClientSession, url: str, job_id: str, query: str = "") -> str:
    """Return the digest of a result, or the sentence that there is instead."""
    async with session.get(f"{url}/download/{job_id}{query}") as answer:
        if answer.status == 200:
            return hashlib.sha256(await answer.read()).hexdigest()
        return f"{answer.status} {(await answer.json())['error']}"


def run(program: str, *arguments: str | Path) -> None:
    subprocess.run([programs() / program, *arguments], check=True, capture_output=True)


def replace_with(copy: Path, blobs: Path) -> None:
    shutil.rmtree(blobs)
    shutil.copytree(copy, blobs)


async def test_each_job_is_right_or_fails_after_a_restore_with_older_or_newer_blobs(
    tmp_path: Path, models_dir: Path
) -> None:
    made = Cluster(tmp_path / "cluster", models_dir, servers=1, workers=1, settings=SETTINGS)
    (server,), (worker,) = made.servers, made.workers
    url, dump, older = server.url + API, tmp_path / "dump", tmp_path / "older"
    database = made.postgres.url()

    async def restore(blobs: Path) -> None:
        await worker.stop()
        await server.stop()
        # Within the database, whose name is part of the settings, all that is there goes.
        made.postgres.execute("DROP SCHEMA public CASCADE")
        made.postgres.execute("CREATE SCHEMA public")
        await asyncio.to_thread(run, "pg_restore", "--no-owner", "-d", database, dump)
        await asyncio.to_thread(replace_with, blobs, made.blobs)
        await asyncio.gather(server.start(), worker.start())

    try:
        await made.start()
        async with aiohttp.ClientSession() as session:
            jobs = {
                name: await submitted(session, url, photo(tmp_path, number))
                for number, name in enumerate(("kept", "fetched later"))
            }
            assert {await ended(session, url, job) for job in jobs.values()} == {"completed"}
            right = {
                name: await fetched(session, url, job, "?keep=true") for name, job in jobs.items()
            }
            await worker.stop()
            jobs["waiting"] = await submitted(session, url, photo(tmp_path, 2))
            shutil.copytree(made.blobs, older)
            jobs["between"] = await submitted(session, url, photo(tmp_path, 3))
            await asyncio.to_thread(run, "pg_dump", "--format=custom", "-f", dump, database)
            jobs["after"] = await submitted(session, url, photo(tmp_path, 4))
            await worker.start()
            for name in ("waiting", "between", "after"):
                assert await ended(session, url, jobs[name]) == "completed"
                right[name] = await fetched(session, url, jobs[name], "?keep=true")
            assert await fetched(session, url, jobs["fetched later"]) == right["fetched later"]
            key = f"results/{jobs['fetched later']}"
            await until(lambda: not (made.blobs / key).exists())
            newer = shutil.copytree(made.blobs, tmp_path / "newer")
            for path in newer.rglob("*"):  # what no record has is swept when it is an hour old
                os.utime(path, (time.time() - 7200,) * 2)

            await restore(older)
            assert await ended(session, url, jobs["waiting"]) == "completed"
            assert await ended(session, url, jobs["between"]) == (
                "failed The upload of this job is no longer among the files of the cluster."
            )
            for name in ("kept", "fetched later", "waiting"):
                assert await fetched(session, url, jobs[name], "?keep=true") == right[name]
            assert (await fetched(session, url, jobs["after"])).startswith("404")

            await restore(newer)
            for name in ("waiting", "between"):  # their uploads were deleted at their end
                assert (await ended(session, url, jobs[name])).startswith("failed The upload of")
            assert await fetched(session, url, jobs["kept"], "?keep=true") == right["kept"]
            assert (await fetched(session, url, jobs["fetched later"])).startswith(
                "410 The result is no longer on the server's disk"
            )
            await until(lambda: not (made.blobs / "results" / jobs["after"]).exists())

            await restore(shutil.copytree(newer, older, dirs_exist_ok=True))
            assert await ended(session, url, jobs["waiting"]) == "completed"
            for name in ("kept", "fetched later", "waiting"):
                assert await fetched(session, url, jobs[name], "?keep=true") == right[name]
            new = await submitted(session, url, photo(tmp_path, 4))
            assert await ended(session, url, new) == "completed"
            assert await fetched(session, url, new) == right["after"]
    finally:
        await made.close()
