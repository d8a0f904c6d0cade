"""A reader's page requests, some of them repeated: is the work done once, and what is in the cache?

    python -m bench.cache [--requests 10000] [--repeated 30] [--quick]

Five requests at a time, as manga readers load their pages, each one curl from picture to picture.
``--repeated`` percent of them are for a page that was requested before, perhaps a moment ago. Every
answer is compared with the first one for that page. Then a byte is changed in a hundred entries of
the cache, and their pages are requested again. At last the server starts with a smaller cache and
gets new pages.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from bench.client import FAST
from bench.report import Report
from bench.setup import BenchSetup, bench_setup, make_parser
from testkit import photos
from testkit.server_process import ServerProcess, server_process

PAGES_AT_ONCE = 5
WIDTH, HEIGHT = 48, 64
FIELDS = f"model_name={FAST}&scale=2&format=png&wait=45"
LARGE_MIB, SMALL_MIB = 4096, 2


def page(number: int) -> bytes:
    """Return the picture of a page; each number has another one."""
    pixels = photos.crop(number, max(WIDTH, HEIGHT))[:HEIGHT, :WIDTH].copy()
    pixels[-1, -4:, 0] = [number >> shift & 255 for shift in (24, 16, 8, 0)]
    return photos.png(pixels)


def sequence(requests: int, repeated: int, seed: int = 1) -> list[int]:
    """Return the pages to request; ``repeated`` percent of them were there before."""
    dice = random.Random(seed)
    again = set(dice.sample(range(1, requests), requests * repeated // 100))
    pages: list[int] = []
    new = 0
    for place in range(requests):
        if place in again:
            pages.append(dice.choice(pages))
        else:
            pages.append(new)
            new += 1
    return pages


@dataclass
class Seen:
    """What the answers were."""

    digests: dict[int, str] = field(default_factory=dict)
    """Of the first answer, by page."""
    seconds: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})
    """By whether the page was there before."""
    errors: list[str] = field(default_factory=list)


async def request(session: aiohttp.ClientSession, url: str, number: int, seen: Seen) -> None:
    """Request one page."""
    picture, again = await asyncio.to_thread(page, number), number in seen.digests
    began = time.perf_counter()
    async with session.post(
        f"{url}/upscale?{FIELDS}",
        data=picture,
        headers={"Content-Type": "image/png", "Accept": "image/*"},
    ) as answer:
        content = await answer.read()
    seen.seconds[again].append(time.perf_counter() - began)
    digest = hashlib.sha256(content).hexdigest()
    if answer.status != 200 or answer.content_type != "image/png":
        seen.errors.append(f"page {number}: {answer.status} {content[:200]!r}")
    elif seen.digests.setdefault(number, digest) != digest:
        seen.errors.append(f"page {number}: another picture than before")


async def request_all(url: str, pages: Iterable[int], seen: Seen, at_once: int) -> None:
    """Request pages, ``at_once`` at a time."""
    left: Iterator[int] = iter(pages)

    async def reader() -> None:
        async with aiohttp.ClientSession() as session:
            for number in left:
                await request(session, url, number, seen)

    async with asyncio.TaskGroup() as tasks:
        for number in range(at_once):
            tasks.create_task(reader(), name=f"reader-{number}")


def works(server: ServerProcess) -> int:
    """Return how often the server did work, according to its log."""
    return sum(server.completions().values())


def ways(server: ServerProcess) -> Counter[str]:
    """Return how many submissions were answered from the cache or joined, by the log."""
    found: Counter[str] = Counter()
    for event in server.events():
        if event.get("message", event.get("event")) == "job submitted":
            found["cached"] += bool(event.get("cached"))
            found["joined"] += "follows" in event
    return found


def entries(server: ServerProcess) -> list[Path]:
    """Return the results in the cache."""
    found = (server.data_dir / "cache").iterdir()
    return sorted(path for path in found if path.suffix != ".json")


def bytes_in(server: ServerProcess) -> int:
    """Return the bytes of the cache's files on the disk."""
    total = 0
    for path in (server.data_dir / "cache").iterdir():
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
            total += path.stat().st_blocks * 512
    return total


def damage(paths: Iterable[Path], dice: random.Random) -> int:
    """Change a byte in each file; return how many there were."""
    count = 0
    for count, path in enumerate(paths, start=1):  # noqa: B007 - counted for the caller
        with path.open("r+b") as file:
            place = dice.randrange(path.stat().st_size)
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 1 << dice.randrange(8)]))
    return count


async def repeated_pages(
    server: ServerProcess, options: argparse.Namespace, report: Report
) -> Seen:
    """Request all pages, and fill ``report``."""
    pages, seen = sequence(options.requests, options.repeated), Seen()
    pages_there = len(set(pages))
    began = time.perf_counter()
    await request_all(server.url, pages, seen, PAGES_AT_ONCE)
    seconds = time.perf_counter() - began
    how = ways(server)
    report.add("requests", len(pages), note=f"of {pages_there:,} pages, five at a time")
    report.add("answers that were errors or other pictures", len(seen.errors), target=0)
    report.add("works done", works(server), target=pages_there)
    report.add("answered from the cache", how["cached"])
    report.add("joined to the one under way", how["joined"])
    report.add("requests a second", len(pages) / seconds)
    new, again = seen.seconds[False], seen.seconds[True]
    report.add("a new page: median", 1000 * statistics.median(new), "ms")
    report.add("a repeated page: median", 1000 * statistics.median(again), "ms")
    alone = Seen(seen.digests)
    await request_all(server.url, range(min(300, pages_there)), alone, 1)
    hits = sorted(alone.seconds[True])
    report.add("a repeated page, nothing else to do: median", 1000 * statistics.median(hits), "ms")
    report.add("the same: 99th percentile", 1000 * hits[len(hits) * 99 // 100], "ms")
    report.details = {"errors": seen.errors[:10]}
    return seen


async def damaged_entries(server: ServerProcess, seen: Seen, report: Report) -> None:
    """Damage entries, request all pages that may be theirs, and fill ``report``."""
    dice, before = random.Random(2), works(server)
    there = entries(server)
    chosen = dice.sample(there, min(100, len(there)))
    count = await asyncio.to_thread(damage, chosen, dice)
    seen.errors.clear()
    # Which page an entry belongs to is not known, so all are requested.
    await request_all(server.url, list(seen.digests), seen, PAGES_AT_ONCE)
    report.add("damaged entries", count)
    report.add("damaged entries that were served", len(seen.errors), target=0)
    report.add("works done again for them", works(server) - before, target=count)


async def smaller_cache(server: ServerProcess, first: int, count: int, report: Report) -> None:
    """Request new pages from a server with a smaller cache, and fill ``report``."""
    most = bytes_in(server)
    seen = Seen()
    for start in range(first, first + count, PAGES_AT_ONCE):
        await request_all(server.url, range(start, start + PAGES_AT_ONCE), seen, PAGES_AT_ONCE)
        most = max(most, await asyncio.to_thread(bytes_in, server))
    report.add(f"most bytes in a cache of {SMALL_MIB} MiB", most / 2**20, "MiB", target=SMALL_MIB)
    report.details["errors of the smaller cache"] = seen.errors[:10]


async def measure(setup: BenchSetup, options: argparse.Namespace, report: Report) -> None:
    """Run all parts and fill ``report``."""
    settings = {**setup.settings, "features.join_identical": True}
    folder = setup.folder / "server"
    large = {**settings, "storage.result_cache_mb": LARGE_MIB}
    async with server_process(folder, setup.models, large) as server:
        seen = await repeated_pages(server, options, report)
        await damaged_entries(server, seen, report)
    report.add("bytes in the cache before", bytes_in(server) / 2**20, "MiB")
    small = {**settings, "storage.result_cache_mb": SMALL_MIB}
    async with server_process(folder, setup.models, small) as server:
        await smaller_cache(server, options.requests, 20 if options.quick else 500, report)


def main() -> None:
    parser = make_parser("cache", __doc__)
    parser.add_argument("--requests", type=int)
    parser.add_argument("--repeated", type=int, default=30, help="percent")
    options = parser.parse_args()
    options.requests = options.requests or (200 if options.quick else 10_000)
    report = Report("cache", options.quick)
    with bench_setup(options) as setup:
        asyncio.run(measure(setup, options, report))
    report.finish()


if __name__ == "__main__":
    main()
