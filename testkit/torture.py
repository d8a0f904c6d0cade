"""Kill a server at random moments while it works, and check that nothing is lost.

A real server process upscales small pictures with the fast model. SIGKILL ends it again and again,
and it is started again; clients submit, wait and download through all of that. In the end every
job that was answered with 202 must have been downloaded once, as the right picture, and no file
and no process may be left. `bench.torture` is the command line.
"""

from __future__ import annotations

import asyncio
import io
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from PIL import Image, ImageChops, ImageStat

from testkit.server_process import ServerProcess

FIELDS = {"model_name": "realesr-animevideov3", "scale": "2", "format": "png"}
_CLIENTS = 6
_LARGEST_MEAN_DIFFERENCE = 15.0  # levels; of 200 pictures no two differ by less than 29


@dataclass
class Tally:
    """What happened during the test."""

    accepted: dict[str, int] = field(default_factory=dict)
    """Number of the picture, by job."""
    unanswered: int = 0
    """Submissions whose answer was lost; the job may exist or not."""
    downloads: Counter[str] = field(default_factory=Counter)
    broken: int = 0
    """Downloads whose connection broke and that were continued."""
    kills: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0
    runs: int = 0
    late: int = 0
    """Jobs whose 202 never arrived; they are found in the store and downloaded too."""


def picture(number: int) -> Image.Image:
    """Return a small picture; each number gives a different one."""
    colours = random.Random(number)
    image = Image.new("RGB", (4, 3))
    image.putdata([tuple(colours.randrange(48, 208) for _ in range(3)) for _ in range(12)])
    return image.resize((40, 30), Image.Resampling.BICUBIC)


def is_enlarged(content: bytes, source: Image.Image) -> bool:
    """Tell whether ``content`` is ``source`` enlarged twice."""
    with Image.open(io.BytesIO(content)) as result:
        if result.size != (2 * source.width, 2 * source.height):
            return False
        small = result.convert("RGB").resize(source.size, Image.Resampling.BOX)
    return max(ImageStat.Stat(ImageChops.difference(small, source)).mean) < (
        _LARGEST_MEAN_DIFFERENCE
    )


async def _submit(
    session: aiohttp.ClientSession, server: ServerProcess, number: int, tally: Tally
) -> str:
    encoded = io.BytesIO()
    picture(number).save(encoded, "PNG")
    while True:
        form = aiohttp.FormData(FIELDS | {})
        form.add_field("image", encoded.getvalue(), filename=f"{number}.png")
        try:
            async with session.post(server.url + "/upscale", data=form) as answer:
                if answer.status == 202:
                    job_id = str((await answer.json())["job_id"])
                    tally.accepted[job_id] = number
                    return job_id
                tally.problems.append(f"submission: {answer.status} {await answer.text()}")
                await asyncio.sleep(int(answer.headers.get("Retry-After", "1")))
                continue
        except aiohttp.ClientConnectorError:
            pass  # the server is down
        except aiohttp.ClientError:
            tally.unanswered += 1
        await server.wait_until_ready()


async def _wait(
    session: aiohttp.ClientSession, server: ServerProcess, job_id: str, tally: Tally
) -> bool:
    """Wait until a job is completed; tell whether it was."""
    while True:
        try:
            async with session.get(f"{server.url}/status/{job_id}?wait=20") as answer:
                status = await answer.json()
        except aiohttp.ClientError:
            await server.wait_until_ready()
            continue
        if answer.status != 200 or status["status"] in {"failed", "cancelled"}:
            tally.problems.append(f"job {job_id}: {status}")
            return False
        if status["status"] == "completed":
            return True


async def _download(
    session: aiohttp.ClientSession, server: ServerProcess, job_id: str, tally: Tally
) -> bytes | None:
    """Download a result, continuing where the connection broke; None: it was refused."""
    received = bytearray()
    while True:
        headers = {"Range": f"bytes={len(received)}-"} if received else {}
        try:
            async with session.get(f"{server.url}/download/{job_id}", headers=headers) as answer:
                if answer.status not in {200, 206}:
                    tally.problems.append(f"download of {job_id}: {answer.status}")
                    return None
                async for chunk in answer.content.iter_any():
                    received += chunk
            tally.downloads[job_id] += 1
            return bytes(received)
        except aiohttp.ClientConnectorError:
            pass
        except aiohttp.ClientError:
            tally.broken += 1
        await server.wait_until_ready()


async def _client(server: ServerProcess, numbers: list[int], tally: Tally) -> None:
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while numbers:
            number = numbers.pop()
            job_id = await _submit(session, server, number, tally)
            if not await _wait(session, server, job_id, tally):
                continue
            content = await _download(session, server, job_id, tally)
            if content is not None and not is_enlarged(content, picture(number)):
                tally.problems.append(f"job {job_id}: the wrong picture")


async def _killer(server: ServerProcess, kills: int, moments: random.Random, tally: Tally) -> None:
    while tally.kills < kills:
        # Some kills hit it while it starts, most while it works.
        await asyncio.sleep(moments.uniform(0.0, 1.0))
        if moments.random() < 0.8:
            await server.wait_until_ready()
            await asyncio.sleep(moments.uniform(0.0, 1.5))
        _, alive = await server.end(signal.SIGKILL)
        tally.kills += 1
        tally.problems += [f"outlived the server: {process}" for process in alive]
        await server.start()


async def _tidy(server: ServerProcess, tally: Tally) -> None:
    """Download what is left: jobs whose 202 was lost, or whose download was not recorded."""
    async with aiohttp.ClientSession() as session:
        for job in await asyncio.to_thread(server.jobs):
            job_id = str(job["id"])
            if job_id not in tally.accepted:
                tally.late += 1
                if await _wait(session, server, job_id, tally):
                    await _download(session, server, job_id, tally)
            elif job["state"] == "completed" and job["result_gone"] is None:
                async with session.get(f"{server.url}/download/{job_id}") as answer:
                    await answer.read()


async def torture(folder: Path, models: Path, *, jobs: int, kills: int, seed: int) -> Tally:
    """Run the test; what went wrong is in the tally's ``problems``."""
    tally = Tally()
    settings = {
        "upscaler.default_model": FIELDS["model_name"],
        # Each kill counts as an attempt of the running job; no job may run out of attempts.
        "upscaler.max_crashes": 100,
        "limits.max_queue_size": 1000,
    }
    server = ServerProcess(folder, models, settings)
    began = time.monotonic()
    try:
        await server.start()
        await _torture(server, tally, jobs=jobs, kills=kills, seed=seed)
        status, alive = await server.stop()
    finally:
        await server.reap()
    tally.seconds = time.monotonic() - began
    tally.problems += [f"outlived the server: {process}" for process in alive]
    if status != 0:
        tally.problems.append(f"the server ended with status {status}")
    _check(server, tally)
    return tally


async def _torture(
    server: ServerProcess, tally: Tally, *, jobs: int, kills: int, seed: int
) -> None:
    await server.wait_until_ready()
    numbers = list(range(jobs))
    async with asyncio.TaskGroup() as tasks:
        for number in range(_CLIENTS):
            tasks.create_task(_client(server, numbers, tally), name=f"client {number}")
        tasks.create_task(_killer(server, kills, random.Random(seed), tally), name="killer")
    await server.wait_until_ready()
    await _tidy(server, tally)


def _check(server: ServerProcess, tally: Tally) -> None:
    """Compare the store, the log and the files with what the clients saw."""
    tally.problems += [f"left behind: {path}" for path in server.files()]
    records = {str(job["id"]): job for job in server.jobs()}
    tally.problems += [f"lost: {job}" for job in tally.accepted if job not in records]
    tally.problems += [
        f"job {job_id}: downloaded {tally.downloads[job_id]} times"
        for job_id in tally.accepted
        if tally.downloads[job_id] != 1
    ]
    tally.problems += [
        f"job {job_id}: completed {count} times"
        for job_id, count in server.completions().items()
        if count != 1
    ]
    tally.runs = sum(int(str(job["runs"])) for job in records.values())


def table(tally: Tally) -> str:
    """Return the tally as a table."""
    rows = [
        ("jobs answered with 202", len(tally.accepted)),
        ("SIGKILLs", tally.kills),
        ("right results downloaded", sum(tally.downloads[job] for job in tally.accepted)),
        ("jobs whose 202 was lost with the connection", tally.late),
        ("submissions without an answer", tally.unanswered),
        ("downloads broken off and continued", tally.broken),
        ("runs begun for them all", tally.runs),
        ("seconds", round(tally.seconds)),
        ("problems", len(tally.problems)),
    ]
    return "\n".join(f"| {name} | {value} |" for name, value in rows)
