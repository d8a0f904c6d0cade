"""Memory after thousands of small jobs, against memory after the first hundred.

    python -m bench.steady [--jobs 2000] [--first 100] [--quick]

Four clients send 64 × 64 crops of photos in different formats and sizes through one server. What
the server and all its descendants hold is read while no job runs, as the smallest of
some samples.
"""

from __future__ import annotations

import argparse
import asyncio
import io
from dataclasses import asdict

from PIL import Image

from bench.client import FAST, connect
from bench.report import Report
from bench.setup import BenchSetup, bench_setup, make_parser
from testkit import photos
from testkit.memory import MIB, Memory, memory
from testkit.server_process import ServerProcess, server_process

CLIENTS = 4
GROWTH = 1.10
_FORMATS = ("png", "jpeg", "webp")
_SIDES = (48, 64, 80)
_SETTLE_SECONDS = 2.0
_SAMPLES = 5


async def work(server: ServerProcess, first: int, last: int) -> None:
    """Send the jobs ``first`` to ``last`` (excluded) through the server."""
    numbers = iter(range(first, last))

    async def client() -> None:
        async with connect(server) as client:
            for number in numbers:
                kind = _FORMATS[number % 3]
                source = io.BytesIO()
                crop = photos.crop(number, _SIDES[number // 3 % 3])
                Image.fromarray(crop).save(source, kind)
                fields = {"model_name": FAST, "scale": "2", "format": kind}
                await client.whole(source.getvalue(), fields)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))


async def settled(server: ServerProcess) -> Memory:
    """Return the memory in use while no job runs."""
    await asyncio.sleep(_SETTLE_SECONDS)
    samples = []
    for _ in range(_SAMPLES):
        samples.append(memory(server.pid))
        await asyncio.sleep(0.1)
    return min(samples, key=lambda sample: sample.shared_once)


async def measure(setup: BenchSetup, options: argparse.Namespace, report: Report) -> None:
    """Run all jobs and fill ``report``."""
    async with server_process(setup.folder / "server", setup.models, setup.settings) as server:
        await work(server, 0, options.first)
        before = await settled(server)
        await work(server, options.first, options.jobs)
        after = await settled(server)
    between = f"after {options.jobs:,} jobs against {options.first:,}"
    report.add(f"memory {between}, shared pages counted once",
               after.shared_once / before.shared_once, target=GROWTH)  # fmt: skip
    report.add(f"memory {between}, sum of resident sizes",
               after.summed / before.summed, target=GROWTH)  # fmt: skip
    report.add(f"the server process alone {between}", after.root / before.root)
    report.add(f"memory after {options.first:,} jobs", before.shared_once / MIB, "MiB")
    report.add(f"memory after {options.jobs:,} jobs", after.shared_once / MIB, "MiB")
    report.details = {"before": asdict(before), "after": asdict(after)}


def main() -> None:
    parser = make_parser("steady", __doc__)
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--first", type=int)
    options = parser.parse_args()
    options.jobs = options.jobs or (200 if options.quick else 2000)
    options.first = options.first or (50 if options.quick else 100)
    report = Report("steady", options.quick or options.jobs < 2000)
    with bench_setup(options) as setup:
        asyncio.run(measure(setup, options, report))
    report.finish()


if __name__ == "__main__":
    main()
