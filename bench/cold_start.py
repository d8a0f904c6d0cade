"""How long one small picture takes where nothing runs yet: the command line, start to end.

    python -m bench.cold_start [--rounds 5] [--quick]

``upscaled upscale`` makes a 48×48 picture four times as large. The first run has an empty data
folder: the network is built and compared with ncnn. Later runs find it compiled. The command
line's own part is what it takes to print its help.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench.client import FAST, SLOW
from bench.report import Report
from bench.setup import BenchSetup, bench_setup, make_parser
from testkit import photos

_SIDE = 48


def _seconds(*arguments: str | Path, env: dict[str, str]) -> float:
    """Return how long a command takes."""
    command = [sys.executable, "-m", "upscaled", *map(str, arguments)]
    began = time.perf_counter()
    subprocess.run(command, env=env, check=True, capture_output=True)
    return time.perf_counter() - began


def measure(setup: BenchSetup, report: Report, rounds: int, models: tuple[str, ...]) -> None:
    """Measure first and later runs with each model, and the command line alone."""
    picture = setup.folder / "small.png"
    picture.write_bytes(photos.png(photos.photo(_SIDE, _SIDE)))
    base = os.environ | {"UPSCALED_UPSCALER_MODELS_PATH": str(setup.models)}
    for model in models:
        first, later = [], []
        for number in range(rounds):
            # A network is compiled in the first run; an empty folder each time, so that runs pair.
            env = base | {"UPSCALED_STORAGE_DATA_DIR": str(setup.folder / f"{model} {number}")}
            target = setup.folder / f"{model} {number}.png"
            arguments = ("upscale", picture, target, "--model", model, "--scale", "4")
            first.append(_seconds(*arguments, env=env))
            later.append(_seconds(*arguments, env=env))
        ratio = statistics.median(b / a for a, b in zip(first, later, strict=True))
        report.add(f"{model}: later runs against the first", ratio, target=0.5)
        report.add(f"{model}: the first run", statistics.median(first), "s")
        report.add(f"{model}: later runs", statistics.median(later), "s")
    alone = [_seconds("upscale", "--help", env=base) for _ in range(rounds)]
    report.add("the command line alone", statistics.median(alone), "s", target=0.5)


def main() -> None:
    parser = make_parser("cold_start", __doc__, device=False)
    parser.add_argument("--rounds", type=int)
    options = parser.parse_args()
    rounds = options.rounds or (1 if options.quick else 5)
    report = Report("cold_start", options.quick)
    with bench_setup(options) as setup:
        measure(setup, report, rounds, (FAST,) if options.quick else (FAST, SLOW))
    report.finish()


if __name__ == "__main__":
    main()
