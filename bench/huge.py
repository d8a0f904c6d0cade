"""A huge picture: memory, time against bare inference, and resuming after a SIGKILL.

    python -m bench.huge [--side 5000] [--killed] [--quick]

Enlarges a picture of ``--side`` × ``--side`` pixels four times with animevideov3 into a PNG, with
``upscaler.memory_limit_mb`` at 1,144 MiB, which is 1.2 GB. Memory is that of the server and all its
descendants, sampled every 0.2 s from submission to the end of the download. Bare inference is the
plain loop (`bench.plain`) over some rows of tiles, measured right after and scaled to the whole
picture. The result is read strip by strip and compared with the source.

``--killed`` repeats the job, kills the server (SIGKILL) at 60 % and starts it again; the result
must have the same bytes. With ``--side 10000`` the result has 1.6 gigapixels.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import math
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.client import FAST, connect
from bench.plain import PlainLoop, tiles_of
from bench.report import Report
from bench.setup import BenchSetup, bench_setup, make_parser
from testkit import photos
from testkit.memory import MIB, MemoryWatch
from testkit.png_rows import png_size, png_strips
from testkit.server_process import ServerProcess, server_process

FIELDS = {"model_name": FAST, "scale": "4", "format": "png"}
SCALE = 4
MEMORY_MIB = 1200e6 / MIB
OF_BARE = 1.15
KILLED_AT = 60
WHOLE_SIDE = 5000
_POLL = 0.25
_PREPARED = 1  # percent: the progress of a job whose first tile is not done
_LARGEST_MEAN_DIFFERENCE = 12.0  # levels; strips of different pictures differ by 40
_ROUNDED = 2  # percent: rounding error of two progress values
_BARE_PIXELS = 4_000_000
"""Source pixels on which bare inference is measured at least, if the picture has as many."""


@dataclass(frozen=True)
class Uninterrupted:
    """Seconds from submission to the last byte, and the tile's side in pixels."""

    seconds: float
    tile: int


def difference(result: Path, source: photos.Pixels) -> float:
    """Return the largest mean difference of a reduced strip from the source, in levels.

    Raises:
        PngError: the result is damaged.
        ValueError: it has another size.
    """
    height, width, _ = source.shape
    if png_size(result) != (SCALE * width, SCALE * height):
        raise ValueError(f"The result has {png_size(result)} pixels.")
    largest, top = 0.0, 0
    for strip in png_strips(result, 16 * SCALE):
        rows = strip.shape[0] // SCALE
        small = strip.reshape(rows, SCALE, width, SCALE, 3).mean(axis=(1, 3), dtype=np.float32)
        largest = max(largest, float(np.abs(small - source[top : top + rows]).mean()))
        top += rows
    return largest


def bare_seconds(loop: PlainLoop, picture: photos.Pixels, side: int) -> float:
    """Return the seconds that all tiles would take, extrapolated from some rows."""
    height, width, _ = picture.shape
    tiles = tiles_of(picture, side)
    across = math.ceil(width / side)
    rows = [tiles[start : start + across] for start in range(0, len(tiles), across)]
    loop.seconds(picture, rows[0][:1])
    chosen = rows[:: max(1, height * width // _BARE_PIXELS)]
    heights = sum(row[0].bottom - row[0].top for row in chosen)
    seconds = math.fsum(loop.seconds(picture, row) for row in chosen)
    share: float = heights / height
    return seconds / share


async def uninterrupted(
    server: ServerProcess, setup: BenchSetup, side: int, device: int, report: Report
) -> Uninterrupted:
    """Measure a run without interruption."""
    name = f"{side:,}×{side:,}"
    picture = photos.photo(side, side)
    source = photos.save(picture, _source(setup, side))
    result = _result(setup, side)
    async with connect(server, _POLL) as client:
        with MemoryWatch(server.pid) as watch:
            began = time.perf_counter()
            job_id = await client.submit(source, FIELDS)
            await client.until(job_id)
            await client.download(job_id, result)
            seconds = time.perf_counter() - began
        receipt = await client.ask("receipt", job_id)
    tile = int(receipt["engine"]["tile_size"])
    loop = PlainLoop(setup.models, f"{FAST}-x{SCALE}", device)
    bare = await asyncio.to_thread(bare_seconds, loop, picture, tile)
    different = await asyncio.to_thread(difference, result, picture)
    report.add(f"{name}: peak memory, shared pages counted once",
               watch.peak.shared_once / MIB, "MiB", target=MEMORY_MIB, sense="under")  # fmt: skip
    report.add(f"{name}: peak memory, sum of resident sizes",
               watch.peak.summed / MIB, "MiB", target=MEMORY_MIB, sense="under")  # fmt: skip
    target = OF_BARE if side >= WHOLE_SIDE else None
    report.add(f"{name}: end to end against bare inference", seconds / bare, target=target)
    report.add(f"{name}: end to end", seconds, "s")
    report.add(f"{name}: bare inference", bare, "s", note=f"tiles of {tile}, some rows, scaled")
    report.add(f"{name}: result reduced against source, worst strip",
               different, "levels", target=_LARGEST_MEAN_DIFFERENCE, sense="under")  # fmt: skip
    report.details[name] = {
        "result_bytes": result.stat().st_size,
        "source_bytes": source.stat().st_size,
        "receipt": receipt,
        "processes": watch.peak.processes,
        "server_mib": watch.peak.root / MIB,
    }
    return Uninterrupted(seconds, tile)


async def killed(
    server: ServerProcess, setup: BenchSetup, side: int, whole: Uninterrupted, report: Report
) -> None:
    """Kill the server at 60 %, start it again, and measure how the job resumes."""
    name = f"{side:,}×{side:,}, killed"
    result = setup.folder / "result-killed.png"
    async with connect(server, _POLL) as client:
        job_id = await client.submit(_source(setup, side), FIELDS)
        before = await client.until(job_id, KILLED_AT)
    _, alive = await server.end(signal.SIGKILL)
    began = time.perf_counter()
    await server.start()
    await server.wait_until_ready()
    async with connect(server, _POLL) as client:
        after = await client.until(job_id, _PREPARED + 1)
        await client.until(job_id)
        await client.download(job_id, result)
        rest = time.perf_counter() - began
    same = await asyncio.to_thread(_digest, result) == await asyncio.to_thread(
        _digest, _result(setup, side)
    )
    report.add(f"{name}: progress when killed", before["progress"], "%")
    # Two bands are lost at most: the one in the network and the one being written.
    kept = before["progress"] - 2 * 100 * whole.tile / side - _ROUNDED
    report.add(f"{name}: first progress after the restart",
               after["progress"], "%", target=kept, sense="at least")  # fmt: skip
    report.add(f"{name}: from restart to last byte, as a share of an uninterrupted run",
               rest / whole.seconds, target=0.6 if side >= WHOLE_SIDE else None)  # fmt: skip
    report.add(f"{name}: same bytes as the uninterrupted run", int(same),
               target=1, sense="at least", note="1: yes")  # fmt: skip
    report.add(f"{name}: processes that outlived the server", len(alive), target=0)


def _source(setup: BenchSetup, side: int) -> Path:
    return setup.folder / f"source-{side}.png"


def _result(setup: BenchSetup, side: int) -> Path:
    return setup.folder / f"result-{side}.png"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def measure(setup: BenchSetup, options: argparse.Namespace, report: Report) -> None:
    """Run all cases and fill ``report``."""
    settings = setup.settings | {
        "server.max_request_size_mb": 1000,
        "upscaler.memory_limit_mb": int(MEMORY_MIB),
    }
    async with server_process(setup.folder / "server", setup.models, settings) as server:
        async with connect(server) as client:  # loads the model
            await client.whole(photos.png(photos.photo(256, 256)), FIELDS)
        alone = await uninterrupted(server, setup, options.side, options.device, report)
        if options.killed:
            await killed(server, setup, options.side, alone, report)


def main() -> None:
    parser = make_parser("huge", __doc__)
    parser.add_argument("--side", type=int, help=f"pixels, {WHOLE_SIDE}")
    parser.add_argument("--killed", action="store_true", help="repeat with a SIGKILL at 60 %%")
    options = parser.parse_args()
    options.side = options.side or (1200 if options.quick else WHOLE_SIDE)
    name = "huge" if options.side <= WHOLE_SIDE else "gigapixel"
    report = Report(name, options.quick or options.side < WHOLE_SIDE)
    with bench_setup(options) as setup:
        asyncio.run(measure(setup, options, report))
    report.finish()


if __name__ == "__main__":
    main()
