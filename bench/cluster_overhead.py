"""What a cluster adds to a job's time, and what a second and a third worker bring.

    python -m bench.cluster_overhead [--rounds 3] [--quick]

First, the same picture goes through a server on one machine and through a cluster of one API server
and one worker on the same machine, in turn: a small one, and one whose file has 100 MB. The time is
from the submission to the last byte of the result; the median of the ratios counts. Second, jobs go
through a cluster with one, two and three workers, each with a fixed share of the processor (as
root, by a control group), in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import random
import statistics
import time

import aiohttp
import numpy as np
from PIL import Image

from bench.report import Report
from bench.setup import BenchSetup, bench_setup, make_parser
from testkit import processor_share, tiffs
from testkit.cluster import Cluster, MemberProcess, healthy, running_cluster, submitted
from testkit.paths import DATA
from testkit.services import FAST

API = "/api/v1"
SHARE = 0.3
"""Cores of each worker."""
_BIG_BYTES = 100_000_000
_SETTINGS: dict[str, object] = {
    "upscaler.default_model": FAST["model_name"],
    "upscaler.engine": "builtin",
    "upscaler.calibrate": False,
    "features.join_identical": False,
    "server.drain_seconds": 5,
}
_LEASE = {"cluster.lease_seconds": 10}


def _small() -> bytes:
    file = io.BytesIO()
    with Image.open(DATA / "coffee.jpg") as photo:
        photo.resize((96, 64)).save(file, "PNG")
    return file.getvalue()


def _big() -> bytes:
    """Return a TIFF of 100 MB with few pixels, so that its way counts and not the network.

    The bytes behind the picture belong to nothing in the file.
    """
    with Image.open(DATA / "coffee.jpg") as photo:
        eight = np.asarray(photo.convert("RGB").resize((480, 360)), np.uint16)
    picture = tiffs.tiff(eight, tiffs.Kind(bits=8))
    return picture + random.Random(1).randbytes(_BIG_BYTES - len(picture))


async def _seconds(session: aiohttp.ClientSession, url: str, picture: bytes) -> float:
    """Return the seconds from a submission to the last byte of the result."""
    began = time.monotonic()
    job_id = await submitted(session, url + API, picture)
    await _ended(session, url, job_id)
    async with session.get(f"{url}{API}/download/{job_id}") as answer:
        assert answer.status == 200
        await answer.read()
    return time.monotonic() - began


async def _ended(session: aiohttp.ClientSession, url: str, job_id: str) -> None:
    """Wait for the end of a job, however long it takes."""
    last = b""
    async with session.get(f"{url}{API}/events/{job_id}") as events:
        async for line in events.content:
            last = line if line.startswith(b"data:") else last
    assert json.loads(last[5:])["status"] == "completed", last


async def overhead(setup: BenchSetup, rounds: int, big_rounds: int, report: Report) -> None:
    """Compare a cluster with one machine."""
    settings = {**_SETTINGS, "upscaler.models_path": str(setup.models), "upscaler.gpu_ids": [-1]}
    alone = MemberProcess(setup.folder / "alone", "serve", settings)
    made = Cluster(
        setup.folder, setup.models, servers=1, workers=1, settings={**_SETTINGS, **_LEASE}
    )
    async with (
        running_cluster(made) as cluster,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session,
    ):
        try:
            await alone.start()
            await healthy(cluster.servers[0].url, 1)
            urls = {"alone": alone.url, "cluster": cluster.servers[0].url}
            for what, picture, count in (
                ("a PNG of 96×64 pixels", _small(), rounds),
                ("a TIFF of 100 MB with 480×360 pixels", _big() if big_rounds else b"", big_rounds),
            ):
                if not count:
                    continue
                for url in urls.values():  # the first job loads the model
                    await _seconds(session, url, _small())
                found: list[dict[str, float]] = [
                    {name: await _seconds(session, url, picture) for name, url in urls.items()}
                    for _ in range(count)
                ]
                print(what, found)
                report.details[what] = found
                ratio = statistics.median(one["cluster"] / one["alone"] for one in found)
                both = [statistics.median(one[name] for one in found) for name in urls]
                report.add(f"{what}: a cluster's time by one machine's", ratio, "",
                           note=f"{count} rounds in turn; {both[0]:.2f} s and {both[1]:.2f} s in "
                                "the median")  # fmt: skip
        finally:
            await alone.stop()


async def throughput(setup: BenchSetup, rounds: int, jobs: int, report: Report) -> None:
    """Let one, two and three workers of equal shares do jobs."""
    if not processor_share.possible():
        report.add("throughput of more workers", None, note="shares of the processor take root")
        return
    with contextlib.ExitStack() as closing:
        made = Cluster(
            setup.folder / "many", setup.models, servers=1, workers=0,
            settings={**_SETTINGS, **_LEASE, "upscaler.threads": 1},
        )  # fmt: skip
        workers = [
            MemberProcess(
                setup.folder / f"worker-{number}", "work", made.settings,
                prefix=closing.enter_context(processor_share.processor_share(SHARE)),
            )
            for number in range(3)
        ]  # fmt: skip
        async with running_cluster(made) as cluster, aiohttp.ClientSession() as session:
            url = cluster.servers[0].url
            found: dict[int, list[float]] = {1: [], 2: [], 3: []}
            for _ in range(rounds):
                for count, rates in found.items():
                    try:
                        await asyncio.gather(*(one.start() for one in workers[:count]))
                        await healthy(url, count)
                        rates.append(await _rate(session, url, count, jobs))
                    finally:
                        await asyncio.gather(*(one.stop() for one in workers))
            print(found)
            report.details["jobs a second, by workers"] = found
            for count in (2, 3):
                ratio = statistics.median(
                    many / one for many, one in zip(found[count], found[1], strict=True)
                )
                report.add(f"jobs a second of {count} workers by those of one", ratio, "",
                           note=f"{SHARE:g} cores each, {rounds} rounds in turn")  # fmt: skip


async def _rate(session: aiohttp.ClientSession, url: str, workers: int, jobs: int) -> float:
    """Return the jobs a second of workers that have loaded the model."""
    file = io.BytesIO()
    with Image.open(DATA / "coffee.jpg") as photo:
        photo.resize((160, 120)).save(file, "PNG")
    for count in (4 * workers, jobs):
        began = time.monotonic()
        ids = [await submitted(session, url + API, file.getvalue()) for _ in range(count)]
        for job_id in ids:
            await _ended(session, url, job_id)
    return jobs / (time.monotonic() - began)


async def run(options: argparse.Namespace) -> None:
    """Measure both."""
    report = Report("cluster_overhead", options.quick)
    quick = options.quick
    with bench_setup(options) as setup:
        await overhead(
            setup, options.rounds * (1 if quick else 8), 0 if quick else options.rounds, report
        )
        await throughput(setup, 1 if quick else 2, 8 if quick else 24, report)
    report.finish()


def main() -> None:
    parser = make_parser("cluster_overhead", __doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of the large picture")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
