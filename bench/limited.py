"""Memory of server and all descendants while they work under ``memory_limit_mb``.

    python -m bench.limited [--quick]

For each limit a server of its own upscales a photo; what it and all its descendants hold is sampled
every 0.1 s. The last limit is that of a machine with 2 GB, with the model that takes most.
"""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import dataclass

from bench import photos
from bench.client import FAST, SLOW, connect
from bench.report import Report
from bench.workplace import Workplace, make_parser, workplace
from testkit.memory import MIB, MemoryWatch
from testkit.server_process import server_process

SETTING = "upscaler.memory_limit_mb"
_TWO_GB = 2_000_000_000 // MIB
_SYSTEM = 400
"""MiB that a machine of 2 GB needs for itself."""


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


async def limited(case: Case, place: Workplace, report: Report) -> None:
    """Add what one case comes to."""
    name = f"{case.model}, {case.side}×{case.side}, limit {case.limit} MiB"
    settings = place.settings | {SETTING: case.limit}
    content = photos.png(photos.photo(case.side, case.side))
    fields = {"model_name": case.model, "scale": "4", "format": "png"}
    async with (
        server_process(
            place.folder / f"{case.model}-{case.limit}", place.models, settings
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


async def measure(place: Workplace, options: argparse.Namespace, report: Report) -> None:
    """Fill ``report``."""
    for case in QUICK if options.quick else WHOLE:
        await limited(case, place, report)


def main() -> None:
    parser = make_parser("limited", __doc__)
    options = parser.parse_args()
    report = Report("limited", options.quick)
    with workplace(options) as place:
        asyncio.run(measure(place, options, report))
    report.finish()


if __name__ == "__main__":
    main()
