"""Kills a server at random moments while it works, and looks whether anything was lost.

    python -m bench.torture --jobs 200 --kills 25 --seed 1

A real server process upscales small pictures with the fast model. It is ended with SIGKILL again
and again and started anew; clients submit, poll and download through all of that. In the end
every job that was answered with 202 must have been downloaded once, as the right picture, and no
file and no process may be left. Exit status 1 when that is not so.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from PIL import Image, ImageChops, ImageStat

from testkit.server import Server
from upscaled.models.install import install

FIELDS = {"model_name": "realesr-animevideov3", "scale": "2", "format": "png"}
_CLIENTS = 6
_PATIENCE = 0.1  # seconds between two questions
_LARGEST_MEAN_DIFFERENCE = 15.0  # levels; of 200 pictures no two differ by less than 29


@dataclass
class Tally:
    """What happened."""

    accepted: dict[str, int] = field(default_factory=dict)
    """Number of the picture, by job."""
    unanswered: int = 0
    """Submissions whose answer was lost; the job may be there or not."""
    downloads: Counter[str] = field(default_factory=Counter)
    broken: int = 0
    """Downloads that broke off and were continued."""
    kills: int = 0
    complaints: list[str] = field(default_factory=list)
    seconds: float = 0.0
    runs: int = 0
    late: int = 0
    """Jobs whose 202 never arrived, found in the records and downloaded too."""


def picture(number: int) -> Image.Image:
    """Return a small picture that no other number has."""
    colours = random.Random(number)
    image = Image.new("RGB", (4, 3))
    image.putdata([tuple(colours.randrange(48, 208) for _ in range(3)) for _ in range(12)])
    return image.resize((40, 30), Image.Resampling.BICUBIC)


def is_enlarged(content: bytes, source: Image.Image) -> bool:
    """Tell whether ``content`` is ``source``, twice as large."""
    with Image.open(io.BytesIO(content)) as result:
        if result.size != (2 * source.width, 2 * source.height):
            return False
        small = result.convert("RGB").resize(source.size, Image.Resampling.BOX)
    return max(ImageStat.Stat(ImageChops.difference(small, source)).mean) < (
        _LARGEST_MEAN_DIFFERENCE
    )


async def _submit(session: aiohttp.ClientSession, url: str, number: int, tally: Tally) -> str:
    encoded = io.BytesIO()
    picture(number).save(encoded, "PNG")
    while True:
        form = aiohttp.FormData(FIELDS | {})
        form.add_field("image", encoded.getvalue(), filename=f"{number}.png")
        try:
            async with session.post(url + "/upscale", data=form) as answer:
                if answer.status == 202:
                    job_id = str((await answer.json())["job_id"])
                    tally.accepted[job_id] = number
                    return job_id
                if answer.status != 503:
                    tally.complaints.append(f"submission: {answer.status} {await answer.text()}")
        except aiohttp.ClientConnectorError:
            pass  # it is down
        except aiohttp.ClientError:
            tally.unanswered += 1
        await asyncio.sleep(_PATIENCE)


async def _wait(session: aiohttp.ClientSession, url: str, job_id: str, tally: Tally) -> bool:
    while True:
        with contextlib.suppress(aiohttp.ClientError):
            async with session.get(f"{url}/status/{job_id}") as answer:
                told = await answer.json()
                if answer.status != 200 or told["status"] in {"failed", "cancelled"}:
                    tally.complaints.append(f"job {job_id}: {told}")
                    return False
                if told["status"] == "completed":
                    return True
        await asyncio.sleep(_PATIENCE)


async def _download(
    session: aiohttp.ClientSession, url: str, job_id: str, tally: Tally
) -> bytes | None:
    got = bytearray()
    while True:
        headers = {"Range": f"bytes={len(got)}-"} if got else {}
        try:
            async with session.get(f"{url}/download/{job_id}", headers=headers) as answer:
                if answer.status not in {200, 206}:
                    tally.complaints.append(f"download of {job_id}: {answer.status}")
                    return None
                async for chunk in answer.content.iter_any():
                    got += chunk
            tally.downloads[job_id] += 1
            return bytes(got)
        except aiohttp.ClientConnectorError:
            pass
        except aiohttp.ClientError:
            tally.broken += 1
        await asyncio.sleep(_PATIENCE)


async def _client(server: Server, numbers: list[int], tally: Tally) -> None:
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while numbers:
            number = numbers.pop()
            job_id = await _submit(session, server.url, number, tally)
            if not await _wait(session, server.url, job_id, tally):
                continue
            content = await _download(session, server.url, job_id, tally)
            if content is not None and not is_enlarged(content, picture(number)):
                tally.complaints.append(f"job {job_id}: the wrong picture")


async def _killer(server: Server, kills: int, moments: random.Random, tally: Tally) -> None:
    while tally.kills < kills:
        # Some deaths come while it still starts, most while it works.
        await asyncio.sleep(moments.uniform(0.0, 1.0))
        if moments.random() < 0.8:
            await server.answers()
            await asyncio.sleep(moments.uniform(0.0, 1.5))
        _, alive = await server.end(signal.SIGKILL)
        tally.kills += 1
        tally.complaints += [f"outlived the server: {process}" for process in alive]
        await server.start()


async def _tidy(server: Server, tally: Tally) -> None:
    """Download what is left: jobs whose 202 was lost, and whose last byte was not noted."""
    async with aiohttp.ClientSession() as session:
        for job in await asyncio.to_thread(server.jobs):
            job_id = str(job["id"])
            if job_id not in tally.accepted:
                tally.late += 1
                if await _wait(session, server.url, job_id, tally):
                    await _download(session, server.url, job_id, tally)
            elif job["state"] == "completed" and job["result_gone"] is None:
                async with session.get(f"{server.url}/download/{job_id}") as answer:
                    await answer.read()


async def torture(folder: Path, models: Path, *, jobs: int, kills: int, seed: int) -> Tally:
    """Do it; what went wrong is in the tally's ``complaints``."""
    tally = Tally()
    settings = {
        "upscaler.default_model": FIELDS["model_name"],
        # The server dies more often than any picture deserves to be suspected.
        "upscaler.max_attempts": 100,
        "limits.max_queue_size": 1000,
    }
    server = Server(folder, models, settings)
    began = time.monotonic()
    await server.start()
    await server.answers()
    numbers = list(range(jobs))
    clients = [
        asyncio.create_task(_client(server, numbers, tally), name=f"client-{number}")
        for number in range(_CLIENTS)
    ]
    await _killer(server, kills, random.Random(seed), tally)
    await asyncio.gather(*clients)
    await server.answers()
    await _tidy(server, tally)
    status, alive = await server.stop()
    tally.seconds = time.monotonic() - began
    tally.complaints += [f"outlived the server: {process}" for process in alive]
    if status != 0:
        tally.complaints.append(f"the server ended with status {status}")
    tally.complaints += [f"left behind: {path}" for path in server.files()]
    records = {str(job["id"]): job for job in server.jobs()}
    tally.complaints += [f"lost: {job}" for job in tally.accepted if job not in records]
    tally.complaints += [
        f"job {job_id}: downloaded {tally.downloads[job_id]} times"
        for job_id in tally.accepted
        if tally.downloads[job_id] != 1
    ]
    tally.complaints += [
        f"job {job_id}: completed {count} times"
        for job_id, count in server.completions().items()
        if count != 1
    ]
    tally.runs = sum(int(str(job["runs"])) for job in records.values())
    return tally


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
        ("complaints", len(tally.complaints)),
    ]
    return "\n".join(f"| {name} | {value} |" for name, value in rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        install(models)
        tally = asyncio.run(
            torture(Path(folder), models, jobs=options.jobs, kills=options.kills, seed=options.seed)
        )
    print(table(tally))
    print("\n".join(tally.complaints))
    return 1 if tally.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
