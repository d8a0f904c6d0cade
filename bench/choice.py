"""Is the method that calibration chooses really the quickest? All of every network, measured.

    python -m bench.choice [--model STEM …] [--rounds 3] [--quick]

Each network is calibrated as an idle server does it. Then the whole engine upscales a picture by
each method that can be forced: each library and precision, threads on one tile or tiles side by
side, small and large tiles. The chosen method, and the rule that holds before anything is measured,
run among them. Medians count. "Agreement" is the least that calibration found against ncnn in 32
bits.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import statistics
from collections.abc import Iterator
from pathlib import Path

from bench.plain import PlainLoop, tiles_of
from bench.report import Report, table
from bench.setup import BenchSetup, bench_setup, make_parser
from testkit import photos
from testkit.networks import Pixels, make_task
from upscaled.config.sources import load
from upscaled.engines.builtin.calibration import BusyError, Calibration
from upscaled.engines.builtin.choice import Table, choose
from upscaled.engines.builtin.cpu_library import CpuLibrary, choose_library, possible_libraries
from upscaled.engines.builtin.engine import BuiltinEngine
from upscaled.engines.cpu_method import CpuMethod
from upscaled.engines.engine import CPU, ModelFiles
from upscaled.engines.selection import cpu_threads
from upscaled.models.catalog import ModelCatalog

_SIDE_BY_SIDE, _ON_ONE_TILE = 9.0, 0.1
"""Costs of twice the threads that leave no doubt about what is better."""
_FAR = 1.03
"""The chosen method may take this much of the best one's time."""
_HEAVY_BYTES = 4 << 20
"""A network with a larger ``.bin`` gets a smaller picture."""
_AUTO, _RULE = "chosen", "by the rule"


def methods(
    libraries: tuple[CpuLibrary, ...], sides: tuple[int, ...]
) -> Iterator[tuple[str, CpuMethod]]:
    """Yield all methods that are compared, with their names."""
    for library in libraries:
        for side in sides:
            name = f"{library.value}, tiles of {side}"
            yield f"{name}, side by side", CpuMethod(library, side, _SIDE_BY_SIDE)
            yield f"{name}, one by one", CpuMethod(library, side, _ON_ONE_TILE)


async def seconds(
    engine: BuiltinEngine, folder: Path, pixels: Pixels, model: ModelFiles, method: CpuMethod | None
) -> tuple[float, str, int]:
    """Return the engine's seconds for a picture, the library it used, and the tile."""
    used: set[str | None] = set()
    task = dataclasses.replace(make_task(folder, pixels, model), method=method)
    outcome = await engine.upscale(task, lambda progress: used.add(progress.library))
    return outcome.seconds, " and ".join(sorted(map(str, used))), outcome.tile_size


async def compare(
    model: ModelFiles, folder: Path, options: argparse.Namespace, report: Report, plain: PlainLoop
) -> None:
    """Measure all methods of one network and add its figures."""
    libraries = possible_libraries()
    cores = cpu_threads(load(environ={}))
    try:
        found = await Calibration(model, libraries, cores, None).run()
    except BusyError:
        raise SystemExit("Other programs keep the processor busy; try again later.") from None
    method = choose(found)
    heavy = model.bin.stat().st_size > _HEAVY_BYTES
    width, height = (192, 192) if heavy else (800, 600)
    sides: tuple[int, ...] = (64, 200) if heavy else (64, 128, 400)
    if options.quick:
        width, height, sides = width // 2, height // 2, (64,)
    pixels = photos.photo(width, height)
    tried: list[tuple[str, CpuMethod | None]] = [(_AUTO, method), (_RULE, None)]
    tried += methods(libraries, sides)
    times: dict[str, list[float]] = {name: [] for name, _ in tried}
    used: dict[str, tuple[str, int]] = {}
    tiles = 0
    engine = BuiltinEngine(CPU, library=choose_library("auto"))
    try:
        for number in range(options.rounds + 1):
            for name, one in tried:
                taken, library, tile = await seconds(engine, folder, pixels, model, one)
                used[name] = (library, tile)
                if number:  # the first round loads networks
                    times[name].append(taken)
        tiles = used[_AUTO][1]
    finally:
        await engine.close()
    looped = [plain.seconds(pixels, tiles_of(pixels, tiles)) for _ in range(options.rounds + 1)][1:]
    _report(model.stem, found, {name: statistics.median(t) for name, t in times.items()}, used,
            report)  # fmt: skip
    auto = statistics.median(times[_AUTO])
    report.add(f"{model.stem}: chosen method against a plain ncnn loop",
               auto / statistics.median(looped), target=1.0)  # fmt: skip


def _report(
    stem: str,
    found: Table,
    times: dict[str, float],
    used: dict[str, tuple[str, int]],
    report: Report,
) -> None:
    def holds(name: str) -> bool:
        return name in {_AUTO, _RULE} or found.holds(CpuLibrary(name.partition(",")[0]))

    best = min((name for name in times if holds(name)), key=lambda name: times[name])
    report.add(f"{stem}: chosen method against the best of all", times[_AUTO] / times[best],
               target=_FAR, note=f"{used[_AUTO][0]}, tiles of {used[_AUTO][1]}")  # fmt: skip
    report.add(f"{stem}: chosen method against the rule", times[_AUTO] / times[_RULE],
               note=used[_RULE][0])  # fmt: skip
    rows = []
    for name in sorted(times, key=lambda name: times[name]):
        library = None if name in {_AUTO, _RULE} else CpuLibrary(name.partition(",")[0])
        least = None if library is None else found.least_db(library)
        rows.append((name, f"{times[name]:.2f} s", "" if least is None else f"{least:.1f} dB",
                     "" if holds(name) else "differs too much", used[name][0]))  # fmt: skip
    print(f"\n{stem}\n\n{table(['method', 'time', 'agreement', '', 'used'], rows)}", flush=True)
    report.details[stem] = {"seconds": times, "agreement": found.decibels}


async def measure(setup: BenchSetup, options: argparse.Namespace, report: Report) -> None:
    """Compare the methods of all networks, or of those that were named."""
    catalog = ModelCatalog(setup.models)
    await catalog.rescan()
    networks = [one for model in catalog.models for one in model.files.values()]
    for model in networks:
        if not options.model or model.stem in options.model:
            plain = PlainLoop(setup.models, model.stem)
            await compare(model, setup.folder, options, report, plain)


def main() -> None:
    parser = make_parser("choice", __doc__, device=False)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--model", nargs="*", metavar="STEM", help="networks; all without a name")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    report = Report("choice", options.quick)
    with bench_setup(options) as setup:
        asyncio.run(measure(setup, options, report))
    report.finish()


if __name__ == "__main__":
    main()
