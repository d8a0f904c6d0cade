"""Looking at a huge result: time to its first tile, time for each tile, memory meanwhile.

    python -m bench.tiles [--side 2500] [--format png] [--quick]

Enlarges a picture of ``--side`` × ``--side`` pixels four times with animevideov3, 100 megapixels
with 2500, and then asks for the result's tiles: first the smallest level, again and again until it
is there, then all tiles of level 0 one after the other. Memory is that of the server and all its
descendants while the tiles are made, less what they held before.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time

import aiohttp

from bench.client import FAST, connect
from bench.report import Report
from bench.setup import BenchSetup, bench_setup, make_parser
from testkit import photos
from testkit.memory import MIB, MemoryWatch, memory
from testkit.server_process import ServerProcess, server_process

SCALE = 4
WHOLE_SIDE = 2500
_AGAIN_SECONDS = 0.2
_MOST_TILES = 400


async def until_there(session: aiohttp.ClientSession, url: str) -> int:
    """Ask for a view until it is there; return its length in bytes."""
    while True:
        async with session.get(url) as answer:
            content = await answer.read()
            if answer.status == 200:
                return len(content)
            if answer.status != 503:
                raise RuntimeError(content.decode())
        await asyncio.sleep(_AGAIN_SECONDS)


async def look(
    server: ServerProcess, setup: BenchSetup, options: argparse.Namespace, report: Report
) -> None:
    """Make a result, and look at it."""
    source = photos.save(photos.photo(options.side, options.side), setup.folder / "source.png")
    async with connect(server) as client:
        fields = {"model_name": FAST, "scale": str(SCALE), "format": options.format}
        job_id = await client.submit(source, fields)
        await client.until(job_id)
    megapixels = (SCALE * options.side) ** 2 / 1e6
    name = f"{megapixels:,.0f} megapixels, {options.format}"
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{server.url}/tiles/{job_id}") as answer:
            told = await answer.json()
        tiles = f"{server.url}/tiles/{job_id}/result"
        result, step = told["result"], told["tile_size"]
        before = memory(server.pid).shared_once
        with MemoryWatch(server.pid) as watch:
            began = time.perf_counter()
            await until_there(session, f"{tiles}/{result['levels'] - 1}/0/0")
            first = time.perf_counter() - began
        columns, rows = (-(-result[side] // step) for side in ("width", "height"))
        places = [(column, row) for row in range(rows) for column in range(columns)]
        seconds, lengths = [], []
        for column, row in places[:_MOST_TILES]:
            began = time.perf_counter()
            lengths.append(await until_there(session, f"{tiles}/0/{column}/{row}"))
            seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
        await until_there(session, f"{server.url}/thumbnail/{job_id}")
        thumbnail = time.perf_counter() - began
    kept = sum(path.stat().st_size for path in (server.data_dir / "views").iterdir())
    report.add(f"{name}: from the first request to the first tile", first, "s")
    report.add(f"{name}: each tile after that, median", 1000 * statistics.median(seconds), "ms")
    report.add(f"{name}: each tile after that, slowest", 1000 * max(seconds), "ms")
    report.add(f"{name}: a tile of level 0, mean", statistics.mean(lengths) / 1000, "KB")
    report.add(f"{name}: thumbnail", thumbnail, "s")
    report.add(f"{name}: memory while tiles are made",
               (watch.peak.shared_once - before) / MIB,
               "MiB", target=400, sense="under")  # fmt: skip
    report.add(f"{name}: tiles on disk", kept / 1e6, "MB")


async def measure(setup: BenchSetup, options: argparse.Namespace, report: Report) -> None:
    """Look at one result and fill ``report``."""
    settings = setup.settings | {"server.max_request_size_mb": 1000}
    async with server_process(setup.folder / "server", setup.models, settings) as server:
        await look(server, setup, options, report)


def main() -> None:
    parser = make_parser("tiles", __doc__)
    parser.add_argument("--side", type=int, help=f"pixels, {WHOLE_SIDE}")
    parser.add_argument("--format", default="png", choices=("png", "jpg", "webp"))
    options = parser.parse_args()
    options.side = options.side or (300 if options.quick else WHOLE_SIDE)
    report = Report("tiles", options.quick or options.side < WHOLE_SIDE)
    with bench_setup(options) as setup:
        asyncio.run(measure(setup, options, report))
    report.finish()


if __name__ == "__main__":
    main()
