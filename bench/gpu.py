"""A Vulkan GPU: the native program against the builtin engine, and where the time goes.

    python -m bench.gpu [--quick] [--device INDEX] [--model STEM] [--side PIXELS]

Without ``--device`` it uses the best real GPU; without a GPU it says so and ends. A software device
must be named. For each engine it measures the first picture (cold: process, driver, network) and
later ones (warm), for the builtin engine also several tile sizes and two jobs at once, then the
parts of one tile. A missing part, such as the native program, is named and left out.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

from bench.report import Report
from bench.setup import BenchSetup, bench_setup, make_parser
from testkit.networks import make_task
from testkit.photos import photo
from upscaled.engines import devices
from upscaled.engines.binary import program as native_program
from upscaled.engines.binary.engine import BinaryEngine
from upscaled.engines.builtin.engine import BuiltinEngine
from upscaled.engines.engine import PADDING, Device, Engine, ModelFiles, UpscaleTask
from upscaled.errors import EngineError
from upscaled.models.official import official_findings
from upscaled.workers.environment import plain_env

TILES = (100, 200, 400)
_PARTS_SECONDS = 600.0


def _files(models: Path, stem: str) -> ModelFiles:
    param, weights = models / f"{stem}.param", models / f"{stem}.bin"
    found = official_findings(param, weights)
    if found is None:
        raise SystemExit(f"{stem} is none of the official models.")
    return ModelFiles(param, weights, found.native_scale, "data", "output", found.bytes_per_pixel)


def _task(folder: Path, model: ModelFiles, side: int, tile: int = 0) -> UpscaleTask:
    folder.mkdir(exist_ok=True)
    return make_task(folder, photo(side, side), model, tile_size=tile)


async def _seconds(engine: Engine, task: UpscaleTask) -> float:
    began = time.perf_counter()
    await engine.upscale(task, lambda _: None)
    return time.perf_counter() - began


async def _warm(engine: Engine, task: UpscaleTask, rounds: int) -> float:
    return statistics.median([await _seconds(engine, task) for _ in range(rounds)])


async def measure(
    report: Report, device: Device, setup: BenchSetup, options: argparse.Namespace
) -> None:
    """Measure one device and add all its figures."""
    model = _files(setup.models, options.model)
    side = options.side or (128 if options.quick else 1024)
    rounds = 1 if options.quick else 5
    task = await asyncio.to_thread(_task, setup.folder / "one", model, side)
    pixels = side * side / 1e6
    async with AsyncExitStack() as stack:
        builtin, second = BuiltinEngine(device), BuiltinEngine(device)
        for engine in (builtin, second):
            stack.push_async_callback(engine.close)
        cold = await _seconds(builtin, task)
        warm = await _warm(builtin, task, rounds)
        report.add("builtin engine, cold", cold, "s")
        report.add("builtin engine, warm", warm, "s")
        report.add("builtin engine, warm, pixels of the source", pixels / warm, "megapixels/s")
        await _native(report, device, task, rounds, cold, warm)
        for tile in TILES:
            if tile > side:
                continue
            fixed = await asyncio.to_thread(_task, setup.folder / "tiled", model, side, tile)
            try:
                taken = await _warm(builtin, fixed, rounds)
            except EngineError as error:
                report.add(f"builtin engine, tile {tile}", None, note=error.message)
            else:
                report.add(f"builtin engine, tile {tile}", taken, "s")
        other = await asyncio.to_thread(_task, setup.folder / "two", model, side)
        await second.upscale(other, lambda _: None)
        began = time.perf_counter()
        await asyncio.gather(_seconds(builtin, task), _seconds(second, other))
        both = time.perf_counter() - began
        report.add("two jobs at once, against one after the other", both / (2 * warm))
    await asyncio.to_thread(_parts, report, device, model, min(side, 200), rounds)


async def _native(
    report: Report, device: Device, task: UpscaleTask, rounds: int, cold: float, warm: float
) -> None:
    """Add the native program's figures; it starts anew for every picture."""
    root = Path(__file__).parent.parent
    program = native_program.find_program("", root / "bin") or native_program.find_program(
        "", root / ".tools"
    )
    if program is None:
        report.add("binary engine", None, note="there is no native program in bin/ or PATH")
        return
    engine = BinaryEngine(program, device)
    try:
        taken = await _warm(engine, task, rounds)
    except EngineError as error:
        report.add("binary engine", None, note=error.message)
    else:
        report.add("binary engine", taken, "s")
        report.add("binary engine against the builtin one's first picture", taken / cold)
        report.add("binary engine against the builtin one warm", taken / warm)
    finally:
        await engine.close()


def _parts(report: Report, device: Device, model: ModelFiles, tile: int, rounds: int) -> None:
    """Add the parts of a tile's time, measured in a separate process."""
    command = [sys.executable, "-m", "bench.gpu_parts", str(device.index), str(model.param)]
    command += [str(tile + 2 * PADDING), str(rounds)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=_PARTS_SECONDS,
        check=False,
        env=plain_env(),
        cwd=Path(__file__).parent.parent,
    )
    if done.returncode != 0:
        words = done.stderr.strip().splitlines() or ["no output"]
        report.add("where the time goes", None, note=f"status {done.returncode}: {words[-1]}")
        return
    for line in done.stdout.splitlines():
        name, _, seconds = line.rpartition(" ")
        report.add(f"tile {tile}: {name}", float(seconds) * 1000, "ms")


async def _run(options: argparse.Namespace, setup: BenchSetup, report: Report) -> None:
    found = await devices.list_devices()
    names = ", ".join(f"{one.index} ({one.name})" for one in found) or "none"
    if options.device >= 0:
        device = next((one for one in found if one.index == options.device), None)
        if device is None:
            raise SystemExit(f"There is no Vulkan device {options.device}; there are: {names}.")
    else:
        device = devices.best_device(found)
        if device is None:
            sentence = f"there is no GPU here; Vulkan devices: {names}"
            print(f"{sentence[:1].upper()}{sentence[1:]}.")
            report.add("a Vulkan GPU", None, note=sentence)
            return
    report.details["device"] = {"name": device.name, "kind": device.kind.value}
    print(f"{device.name} ({device.kind.value})", flush=True)
    await measure(report, device, setup, options)


def main() -> None:
    parser = make_parser("gpu", __doc__)
    parser.add_argument("--model", default="realesr-animevideov3-x2", help="an official model")
    parser.add_argument("--side", type=int, default=0, help="pixels of the photo's side")
    options = parser.parse_args()
    report = Report("gpu", options.quick)
    with bench_setup(options) as setup:
        asyncio.run(_run(options, setup, report))
    report.finish()


if __name__ == "__main__":
    main()
