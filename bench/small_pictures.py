"""Many small pictures: the service against a process a picture, and against a plain loop.

    python -m bench.small_pictures [--pictures 200] [--clients 4] [--quick]

Clients take 64 × 64 crops of photos one after the other: each submits one, waits
for its end, downloads the result, takes the next. The same pictures go through
``upscaled upscale`` (some of them, a process for each) and through a plain loop of ncnn and numpy
in one process, which neither decodes nor encodes. Service and loop alternate; medians count.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time

from bench import photos
from bench.client import FAST, connect
from bench.plain import PlainLoop, tiles_of
from bench.report import Report, table
from bench.workplace import Workplace, make_parser, workplace
from testkit.memory import processor_seconds
from testkit.server_process import ServerProcess, server_process

SIDE = 64
FIELDS = {"model_name": FAST, "scale": "2"}
TIMES_ONE_SHOT = 10.0
OF_THE_LOOP = 1 / 1.5


async def through_service(
    server: ServerProcess, pictures: list[bytes], clients: int, poll: float | None
) -> tuple[float, dict[str, float], int]:
    """Return the seconds for all pictures, processor seconds by process, and status questions."""
    questions = 0
    left = iter(pictures)
    before = processor_seconds(server.pid)
    own = time.process_time()

    async def client() -> None:
        nonlocal questions
        async with connect(server, poll) as client:
            for picture in left:
                await client.whole(picture, FIELDS)
            questions += client.questions

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    seconds = time.perf_counter() - began
    spent = {
        role: value - before.get(role, 0.0) for role, value in processor_seconds(server.pid).items()
    }
    return seconds, {**spent, "callers (this bench)": time.process_time() - own}, questions


def one_shot(place: Workplace, picture: bytes) -> float:
    """Return the seconds of a process that upscales one picture."""
    source = place.folder / "one.png"
    source.write_bytes(picture)
    command = [
        sys.executable, "-m", "upscaled", "upscale", str(source), str(place.folder / "two.png"),
        "--model", FAST, "--scale", "2", "--config", str(place.folder / "server" / "config.yaml"),
    ]  # fmt: skip
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


async def measure(place: Workplace, options: argparse.Namespace, report: Report) -> None:
    """Fill ``report``."""
    crops = [photos.crop(number, SIDE) for number in range(options.pictures)]
    pictures = [photos.png(crop) for crop in crops]
    loop = PlainLoop(place.models, f"{FAST}-x2", options.device)
    tiles = tiles_of(crops[0], SIDE)
    loop.seconds(crops[0], tiles)
    served: list[float] = []
    looped: list[float] = []
    spent: list[dict[str, float]] = []
    questions: list[float] = []
    async with server_process(place.folder / "server", place.models, place.settings) as server:
        await through_service(server, pictures[: 2 * options.clients], options.clients, None)
        for _ in range(options.rounds):
            looped.append(sum(loop.seconds(crop, tiles) for crop in crops))
            await asyncio.sleep(0.5)  # the loop's threads spin for a moment
            seconds, processor, asked = await through_service(
                server, pictures, options.clients, options.poll
            )
            served.append(seconds)
            spent.append(processor)
            questions.append(asked / options.pictures)
    alone = [await asyncio.to_thread(one_shot, place, pictures[n]) for n in range(options.alone)]
    per_second = options.pictures / statistics.median(served)
    report.add(
        "throughput against a process for each picture",
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
    report.add("the service", per_second, "pictures a second")
    report.add("the plain loop", options.pictures / statistics.median(looped), "pictures a second")
    report.add("a process for each", 1 / statistics.median(alone), "pictures a second")
    report.add("questions for its status that a picture needed", statistics.median(questions))
    breakdown = {
        role: 1000 * statistics.median(one.get(role, 0.0) for one in spent) / options.pictures
        for role in sorted({role for one in spent for role in one})
    }
    print(table(["process", "processor time a picture"],
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
    parser.add_argument("--poll", type=float, help="ask every so many seconds, instead of waiting")
    parser.add_argument("--alone", type=int, help="pictures that get a process of their own")
    parser.add_argument("--rounds", type=int)
    options = parser.parse_args()
    options.pictures = options.pictures or (40 if options.quick else 200)
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.alone = options.alone or (3 if options.quick else 10)
    report = Report("small_pictures", options.quick or options.pictures < 200)
    with workplace(options) as place:
        asyncio.run(measure(place, options, report))
    report.finish()


if __name__ == "__main__":
    main()
