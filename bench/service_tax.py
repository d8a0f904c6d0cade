"""The cost of the service beyond the network: submit to last byte, against a plain loop.

    python -m bench.service_tax [--rounds 5] [--quick]

The same tiles go through the service (upload, decoding, verification, encoding, download and all)
and through a plain loop of ncnn and numpy (`bench.plain`) that does not decode or encode. The two
alternate; the median of the ratios counts. Before the server starts, `upscaled bench` measures the
networks, as an idle server would, so that ``auto`` is what users get after a while.
Where the service runs networks on another library than ncnn, the faster case runs a second time
with ncnn in the service too. The times of the stages come from the receipts; stages overlap, so
they add up to more than the total.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from bench.client import FAST, SLOW, Client, connect
from bench.plain import PlainLoop, area, tiles_of
from bench.report import Report, table
from bench.setup import BenchSetup, bench_setup, make_parser
from testkit import photos
from testkit.server_process import server_process
from upscaled.engines.builtin.cpu_library import CpuLibrary, choose_library

ANIME = "realesrgan-x4plus-anime"
_PAUSE = 0.5
"""Seconds until the threads of the measurement before have stopped spinning."""


@dataclass(frozen=True)
class Case:
    """One comparison: a picture's size, a model, and the target of the ratio."""

    width: int
    height: int
    model: str
    files: str
    target: float | None
    library: str = "auto"
    """The setting ``upscaler.cpu_library`` of the service."""

    def __str__(self) -> str:
        aside = "" if self.library == "auto" else f", service on {self.library} too"
        return f"{self.width}×{self.height}, {self.files}{aside}"


WHOLE = (
    Case(512, 512, SLOW, SLOW, 1.03),
    Case(512, 512, ANIME, ANIME, 1.00),
    Case(1600, 1200, FAST, f"{FAST}-x4", 1.00),
)
QUICK = (
    Case(128, 128, SLOW, SLOW, None),
    Case(800, 600, FAST, f"{FAST}-x4", None),
)


async def compare(
    case: Case, client: Client, setup: BenchSetup, options: argparse.Namespace, report: Report
) -> None:
    """Measure one case and add its figures."""
    picture = photos.photo(case.width, case.height)
    content = photos.png(picture)
    fields = {"model_name": case.model, "scale": "4", "format": "png"}
    loop = PlainLoop(setup.models, case.files, options.device)
    # The first job loads the model; its receipt has the tile size.
    job_id, _ = await client.whole(content, fields)
    engine = (await client.ask("receipt", job_id))["engine"]
    side = int(engine["tile_size"])
    tiles = tiles_of(picture, side)
    loop.seconds(picture, tiles[:1])
    served, looped, stages = [], [], []
    for _ in range(options.rounds):
        await asyncio.sleep(_PAUSE)
        looped.append(loop.seconds(picture, tiles))
        await asyncio.sleep(_PAUSE)
        job_id, seconds = await client.whole(content, fields)
        served.append(seconds)
        stages.append((await client.ask("receipt", job_id))["seconds"])
    ratio = statistics.median(a / b for a, b in zip(served, looped, strict=True))
    spent = {
        stage: statistics.median(one.get(stage, 0.0) for one in stages)
        for stage in sorted({stage for one in stages for stage in one})
    }
    report.add(f"{case}: service against plain loop", ratio, target=case.target)
    report.add(f"{case}: service", statistics.median(served), "s", note=engine["library"])
    report.add(f"{case}: plain loop", statistics.median(looped), "s", note=f"tiles of {side}")
    rows = [(stage, f"{seconds:.3f} s") for stage, seconds in spent.items()]
    print(f"\n{case}\n\n{table(['stage', 'median'], rows)}")
    report.details[str(case)] = {
        "served_seconds": served,
        "looped_seconds": looped,
        "stage_seconds": spent,
        "tile_size": side,
        "padding_share": 1 - case.width * case.height / area(tiles),
    }


def calibrate(data: Path, setup: BenchSetup, models: set[str]) -> None:
    """Measure the networks of ``models``, for the service with this data folder."""
    settings = {"STORAGE_DATA_DIR": data, "UPSCALER_MODELS_PATH": setup.models}
    env = os.environ | {f"UPSCALED_{name}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "upscaled", "bench", *sorted(models)]
    subprocess.run(command, env=env, check=True)


async def measure(setup: BenchSetup, options: argparse.Namespace, report: Report) -> None:
    """Measure all cases and fill ``report``."""
    cases = list(QUICK if options.quick else WHOLE)
    if options.device < 0 and choose_library("auto") is not CpuLibrary.NCNN:
        cases.append(replace(cases[-1], library="ncnn"))
    if options.only:
        cases = [case for case in cases if options.only in str(case)]
    for library, group in itertools.groupby(cases, lambda case: case.library):
        some = list(group)
        measured = library == "auto" and options.device < 0
        if measured:
            data = setup.folder / library / "data"
            models = {case.model for case in some}
            await asyncio.to_thread(calibrate, data, setup, models)
        settings = {
            **setup.settings,
            "upscaler.cpu_library": library,
            "upscaler.calibrate": measured,
            "upscaler.default_model": some[0].model,
            "upscaler.default_scale": 4,
        }
        async with (
            server_process(setup.folder / library, setup.models, settings) as server,
            connect(server, options.poll) as client,
        ):
            for case in some:
                await compare(case, client, setup, options, report)


def main() -> None:
    parser = make_parser("service_tax", __doc__)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--only", help="only the cases whose name contains this")
    parser.add_argument(
        "--poll",
        type=float,
        help="seconds between status requests, instead of ?wait=",
    )
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 5)
    report = Report("service_tax", options.quick)
    with bench_setup(options) as setup:
        asyncio.run(measure(setup, options, report))
    report.finish()


if __name__ == "__main__":
    main()
