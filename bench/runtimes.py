"""The builtin engine against other runtimes on the same networks.

    python -m bench.runtimes [--quick] [--sittings N] [--rounds N]

Each runtime gets the networks from the same files, in its own process (`bench.contenders`), and
turns the same padded tiles of a photo into enlarged tiles without padding: with all cores on one
tile, or with one tile per core. (The others compute the whole padding and cut it off; the engine
does not compute what is cut off, and uses bfloat16 where it does so in service. Both are part of
its rate.) A runtime's result must agree with ours to 50 dB (32 bits) or 40 dB (16 bits) before it
is timed.

A few turns of all show the faster way of each runtime. From then on only that one is timed, between
two turns of ours, and compared with their mean, since the speed of a machine changes from second to
second; the median of these ratios counts. All runtimes are started several times, since processes
of the same program differ too. Runtimes that are not installed are named (the dependency group
``bench`` has them). The whole engine is also timed on a photo, and its arithmetic compared with a
matrix product. A quick run tries one way only, and its small tiles reach no target.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.contenders import (
    CORES,
    F32_DB,
    OURS,
    OURS_IN_32,
    RUNTIMES,
    Contender,
    Floats,
    NotReadyError,
    Pixels,
    layers_of,
    our_library,
)
from bench.report import Report, table
from bench.setup import bench_setup, make_parser
from testkit.networks import make_task, psnr
from testkit.photos import photo
from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.builtin.engine import BuiltinEngine
from upscaled.engines.builtin.graph import operations
from upscaled.engines.builtin.network import to_bytes
from upscaled.engines.builtin.padding_trim import trim_padding
from upscaled.engines.engine import CPU, PADDING, ModelFiles
from upscaled.pictures import Size

TILES = {"realesr-animevideov3-x4": 256, "realesrgan-x4plus": 76}
"""Tile sides without padding."""
ROUNDS = {"realesr-animevideov3-x4": 6, "realesrgan-x4plus": 3}
_SITTINGS = 4
"""How often all runtimes are started, for ``ROUNDS`` turns each."""
PHOTOS = {"realesr-animevideov3-x4": (1600, 1200), "realesrgan-x4plus": (256, 256)}
_TRIALS = 3


def _has_bf16() -> bool:
    """Tell whether the processor multiplies bfloat16; if not, bfloat16 is several times slower."""
    return "bf16" in Path("/proc/cpuinfo").read_text("utf-8")


@dataclass
class Comparison:
    """The results of all runtimes on one network."""

    contenders: list[Contender] = field(default_factory=list)
    """Each runtime, once per way."""
    missing: list[str] = field(default_factory=list)
    """A sentence for each runtime that could not be timed."""
    ratios: dict[str, list[float]] = field(default_factory=dict)
    """For the faster way of each other runtime: its seconds divided by ours."""

    def quickest(self, name: str) -> Contender:
        """Return the faster way of a runtime."""
        ways = [one for one in self.contenders if one.runtime.name == name]
        return min(ways, key=lambda way: way.median)


def compare(
    param: Path, side: int, ways: Sequence[int], *, sittings: int, rounds: int
) -> Comparison:
    """Time all runtimes on one network.

    Args:
        param: the network.
        side: side of a tile without padding.
        ways: numbers of threads per tile.
        sittings: how often all runtimes are started.
        rounds: turns of each per start.
    """
    tile = photo(side + 2 * PADDING, side + 2 * PADDING)
    found = _tried(param, tile, ways)
    ours = found.quickest(OURS)
    names = dict.fromkeys(one.runtime.name for one in found.contenders)
    others = [found.quickest(name) for name in names if name != OURS]
    for _ in range(sittings):
        with ExitStack() as stack:
            for one in (ours, *others):
                stack.enter_context(one.started(param, tile))
            for _ in range(rounds):
                before = ours.turn()
                for other in others:
                    seconds = other.turn()
                    after = ours.turn()
                    ratio = seconds / statistics.mean((before, after))
                    found.ratios.setdefault(other.runtime.name, []).append(ratio)
                    before = after
    return found


def _tried(param: Path, tile: Pixels, ways: Sequence[int]) -> Comparison:
    """Find the installed runtimes, check their results, and time each way a few times."""
    found = Comparison()
    reference: Floats | None = None
    with ExitStack() as stack:
        for runtime in RUNTIMES:
            if runtime.name == OURS_IN_32 and our_library(param) is not CpuLibrary.OPENVINO_BF16:
                continue  # ours is in 32 bits anyway
            if runtime.least_db < F32_DB and not _has_bf16():
                found.missing.append(f"{runtime.name}: the processor has no 16-bit floating point")
                continue
            for threads in ways:
                one = Contender(runtime, threads)
                try:
                    picture = stack.enter_context(one.started(param, tile))
                except NotReadyError as error:
                    found.missing.append(f"{runtime.name}: {error}")
                    break
                reference = picture if reference is None else reference
                one.agreement = psnr(to_bytes(picture), to_bytes(reference))
                if one.agreement < runtime.least_db:
                    found.missing.append(
                        f"{runtime.name}: its result differs ({one.agreement:.1f} dB)"
                    )
                    break
                found.contenders.append(one)
        for _ in range(_TRIALS if len(ways) > 1 else 1):
            for one in found.contenders:
                one.turn()
    return found


def _peak() -> float:
    """Return the best GFLOP/s of many matrix products, one at a time and one per core.

    Which is faster depends on how many threads numpy's library uses.
    """
    side = 2048
    left = np.random.default_rng(1).random((side, side), np.float32)
    rates = []
    for at_once in (1, CORES):
        with ThreadPoolExecutor(at_once) as pool:
            for _ in range(8):
                began = time.perf_counter()
                list(pool.map(lambda _: left @ left, range(at_once)))
                rates.append(at_once * 2 * side**3 / (time.perf_counter() - began) / 1e9)
    return max(rates)


async def _whole_engine(param: Path, size: Size, folder: Path, rounds: int) -> float:
    """Return the engine's median seconds for a photo, from raw pixels to raw pixels."""
    model = ModelFiles(param, param.with_suffix(".bin"), 4, "data", "output", _appetite(param))
    task = make_task(folder, photo(size.width, size.height), model)
    engine = BuiltinEngine(CPU, library=our_library(param))
    try:
        await engine.upscale(task, lambda _: None)
        return statistics.median(
            [(await engine.upscale(task, lambda _: None)).seconds for _ in range(rounds)]
        )
    finally:
        await engine.close()


def _appetite(param: Path) -> int:
    from upscaled.models.official import official_findings  # noqa: PLC0415

    findings = official_findings(param, param.with_suffix(".bin"))
    assert findings is not None
    return findings.bytes_per_pixel


def _report(report: Report, param: Path, sittings: int, rounds: int, peak: float) -> None:
    stem, quick = param.stem, report.quick
    side = TILES[stem] // 2 if quick else TILES[stem]
    ways = [1] if quick else sorted({CORES, 1}, reverse=True)
    found = compare(param, side, ways, sittings=sittings, rounds=rounds)
    pixels = CORES * (side + 2 * PADDING) ** 2
    rows = []
    for one in found.contenders:
        way = "one tile, all cores" if one.threads == CORES else "one tile per core"
        rate = one.median / pixels * 1e6
        turns = str(len(one.seconds))
        rows.append([one.runtime.name, way, turns, f"{rate:.2f} µs", f"{one.agreement:.1f} dB"])
    print(f"\n{stem}, tiles of {side} px plus padding\n")
    print(table(["runtime", "way", "turns", "per padded pixel", "agrees to"], rows))
    for sentence in found.missing:
        print(f"\n{sentence}")
        report.add(f"{stem}: {sentence.split(':')[0]}", None, note=sentence)
    for name, ratios in found.ratios.items():
        target = 1.0 if "f32" in name and not quick else None  # none for our own variants
        report.add(f"{stem}: our rate against {name}", statistics.median(ratios),
                   target=target, sense="at least")  # fmt: skip
    seconds = found.quickest(OURS).median
    padded = Size(side + 2 * PADDING, side + 2 * PADDING)
    layers = trim_padding(layers_of(param), "data", "output", PADDING).layers
    work = CORES * operations(layers, "data", padded) / seconds / 1e9
    report.add(f"{stem}: arithmetic, counted without Winograd", work, "GFLOP/s")
    report.add(f"{stem}: the same against {peak:.0f} GFLOP/s of a matrix product", work / peak)
    size = Size(*(length // 4 for length in PHOTOS[stem])) if quick else Size(*PHOTOS[stem])
    with tempfile.TemporaryDirectory() as folder:
        seconds = asyncio.run(_whole_engine(param, size, Path(folder), 1 if quick else 3))
    rate = seconds / size.pixels * 1e6
    report.add(f"{stem}: the whole engine on {size.width}×{size.height}", rate, "µs per pixel")
    report.details[stem] = {
        "tile": side,
        "ways": rows,
        "missing": found.missing,
        "ratios": found.ratios,
    }


def main() -> None:
    parser = make_parser("runtimes", __doc__, device=False)
    parser.add_argument("--sittings", type=int, help="how often all runtimes are started")
    parser.add_argument("--rounds", type=int, help="turns of each other runtime per start")
    options = parser.parse_args()
    report = Report("runtimes", options.quick)
    sittings = options.sittings or (1 if options.quick else _SITTINGS)
    with bench_setup(options) as setup:
        peak = _peak()
        for stem in TILES:
            rounds = options.rounds or (2 if options.quick else ROUNDS[stem])
            _report(report, setup.models / f"{stem}.param", sittings, rounds, peak)
    report.finish()


if __name__ == "__main__":
    main()
