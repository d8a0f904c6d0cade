"""Memory of the server and its descendants under ``memory_limit_mb``.

    python -m bench.limited [--quick]

For each limit, a separate server upscales a photo; its memory and that of all its descendants is
sampled every 0.1 s. The last limit suits a machine with 2 GB, with the model that needs most.
"""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import dataclass

from bench.client import FAST, SLOW, connect
from bench.report import Report
from bench.setup import BenchSetup, bench_setup, make_parser
from testkit import photos
from testkit.memory import MIB, MemoryWatch
from testkit.server_process import server_process

SETTING = "upscaler.memory_limit_mb"
_TWO_GB = 2_000_000_000 // MIB
_SYSTEM = 400
"""MiB that the system itself needs on a machine with 2 GB."""


@dataclass(frozen=True)
class Case:
    """A limit in MiB, a model, and the picture's side."""

    limit: int
    model: str
    side: int


WHOLE = (
    Case(800, FAST, 1500),
    Case(1200, FAST, 1500),
    Case(800, SLOW, 256),
    Case(_TWO_GB - _SYSTEM, SLOW, 512),
)
QUICK = (Case(800, FAST, 600), Case(_TWO_GB - _SYSTEM, SLOW, 128))


async def limited(case: Case, setup: BenchSetup, report: Report) -> None:
    """Measure one case and add its figures."""
    name = f"{case.model}, {case.side}×{case.side}, limit {case.limit} MiB"
    settings = setup.settings | {SETTING: case.limit}
    content = photos.png(photos.photo(case.side, case.side))
    fields = {"model_name": case.model, "scale": "4", "format": "png"}
    async with (
        server_process(
            setup.folder / f"{case.model}-{case.limit}", setup.models, settings
        ) as server,
        connect(server) as client,
    ):
        with MemoryWatch(server.pid, interval=0.1) as watch:
            job_id, seconds = await client.whole(content, fields)
        receipt = await client.ask("receipt", job_id)
    report.add(f"{name}: peak, shared pages counted once",
               watch.peak.shared_once / MIB, "MiB", target=case.limit,
               note=f"tiles of {receipt['engine']['tile_size']}")  # fmt: skip
    report.add(f"{name}: submit to last byte", seconds, "s")
    report.details[name] = {"summed_mib": watch.peak.summed / MIB, "receipt": receipt}


async def measure(setup: BenchSetup, options: argparse.Namespace, report: Report) -> None:
    """Measure all cases and fill ``report``."""
    for case in QUICK if options.quick else WHOLE:
        await limited(case, setup, report)


def main() -> None:
    parser = make_parser("limited", __doc__)
    options = parser.parse_args()
    report = Report("limited", options.quick)
    with bench_setup(options) as setup:
        asyncio.run(measure(setup, options, report))
    report.finish()


if __name__ == "__main__":
    main()
