"""Many small pictures: the service against one process per picture, and against a plain loop.

    python -m bench.small_pictures [--pictures 200] [--clients 4] [--quick]

Each client submits a 64 × 64 crop of a photo, waits for its end, downloads the result and takes the
next crop. Some of the pictures go through ``upscaled upscale``, one process each, and all of them
through a plain loop of ncnn and numpy in one process, which does not decode or encode. Service and
loop alternate; medians count.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time

from bench.client import FAST, connect
from bench.plain import PlainLoop, tiles_of
from bench.report import Report, table
from bench.setup import BenchSetup, bench_setup, make_parser
from testkit import photos
from testkit.memory import processor_seconds
from testkit.server_process import ServerProcess, server_process

SIDE = 64
FIELDS = {"model_name": FAST, "scale": "2"}
TIMES_ONE_SHOT = 10.0
OF_THE_LOOP = 1 / 1.5


async def through_service(
    server: ServerProcess, pictures: list[bytes], clients: int, poll: float | None
) -> tuple[float, dict[str, float], int]:
    """Return the seconds for all pictures, processor seconds by process, and status requests."""
    requests = 0
    left = iter(pictures)
    before = processor_seconds(server.pid)
    own = time.process_time()

    async def client() -> None:
        nonlocal requests
        async with connect(server, poll) as client:
            for picture in left:
                await client.whole(picture, FIELDS)
            requests += client.status_requests

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    seconds = time.perf_counter() - began
    spent = {
        role: value - before.get(role, 0.0) for role, value in processor_seconds(server.pid).items()
    }
    return seconds, {**spent, "clients (this bench)": time.process_time() - own}, requests


def one_shot(setup: BenchSetup, picture: bytes) -> float:
    """Return the seconds that a process takes to upscale one picture."""
    source = setup.folder / "one.png"
    source.write_bytes(picture)
    command = [
        sys.executable, "-m", "upscaled", "upscale", str(source), str(setup.folder / "two.png"),
        "--model", FAST, "--scale", "2", "--config", str(setup.folder / "server" / "config.yaml"),
    ]  # fmt: skip
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


async def measure(setup: BenchSetup, options: argparse.Namespace, report: Report) -> None:
    """Fill ``report``."""
    crops = [photos.crop(number, SIDE) for number in range(options.pictures)]
    pictures = [photos.png(crop) for crop in crops]
    loop = PlainLoop(setup.models, f"{FAST}-x2", options.device)
    tiles = tiles_of(crops[0], SIDE)
    loop.seconds(crops[0], tiles)
    served: list[float] = []
    looped: list[float] = []
    spent: list[dict[str, float]] = []
    requests: list[float] = []
    async with server_process(setup.folder / "server", setup.models, setup.settings) as server:
        await through_service(server, pictures[: 2 * options.clients], options.clients, None)
        for _ in range(options.rounds):
            looped.append(sum(loop.seconds(crop, tiles) for crop in crops))
            await asyncio.sleep(0.5)  # the loop's threads still spin for a moment
            seconds, processor, asked = await through_service(
                server, pictures, options.clients, options.poll
            )
            served.append(seconds)
            spent.append(processor)
            requests.append(asked / options.pictures)
    alone = [await asyncio.to_thread(one_shot, setup, pictures[n]) for n in range(options.alone)]
    per_second = options.pictures / statistics.median(served)
    report.add(
        "throughput against one process per picture",
        per_second * statistics.median(alone),
        "times",
        target=TIMES_ONE_SHOT,
        sense="at least",
    )
    report.add(
        "throughput against the plain loop",
        statistics.median(b / a for a, b in zip(served, looped, strict=True)),
        target=OF_THE_LOOP,
        sense="at least",
    )
    report.add("the service", per_second, "pictures per second")
    report.add(
        "the plain loop", options.pictures / statistics.median(looped), "pictures per second"
    )
    report.add("one process per picture", 1 / statistics.median(alone), "pictures per second")
    report.add("status requests per picture", statistics.median(requests))
    breakdown = {
        role: 1000 * statistics.median(one.get(role, 0.0) for one in spent) / options.pictures
        for role in sorted({role for one in spent for role in one})
    }
    print(table(["process", "processor time per picture"],
                [(role, f"{value:.1f} ms") for role, value in breakdown.items()]))  # fmt: skip
    report.details = {
        "served_seconds": served,
        "looped_seconds": looped,
        "alone_seconds": alone,
        "processor_ms_a_picture": breakdown,
    }


def main() -> None:
    parser = make_parser("small_pictures", __doc__)
    parser.add_argument("--pictures", type=int)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument(
        "--poll",
        type=float,
        help="seconds between status requests, instead of ?wait=",
    )
    parser.add_argument("--alone", type=int, help="pictures that get their own process")
    parser.add_argument("--rounds", type=int)
    options = parser.parse_args()
    options.pictures = options.pictures or (40 if options.quick else 200)
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.alone = options.alone or (3 if options.quick else 10)
    report = Report("small_pictures", options.quick or options.pictures < 200)
    with bench_setup(options) as setup:
        asyncio.run(measure(setup, options, report))
    report.finish()


if __name__ == "__main__":
    main()
