"""Run all benches one after another, each in its own process.

    bench/all [--quick] [NAME …]

At the end it prints every figure that has a target. A full run also writes the tables into
docs/; a quick one does not, since it uses smaller pictures and fewer rounds.
``--document`` only writes the tables, from the results of earlier runs. `bench.compare` shows the
results of two versions side by side.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.document import load, machine_line, rewrite
from bench.machine import machine
from bench.report import RESULTS, figures_of, table

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Bench:
    """One bench, with its arguments in a full and in a quick run."""

    name: str
    full: tuple[str, ...] = ()
    quick: tuple[str, ...] = ("--quick",)
    module: str = ""
    """The module that implements it, if that has another name."""
    by_name: bool = False
    """It takes so long that it only runs when it is named."""


BENCHES = (
    Bench("service_tax", ("--rounds", "3")),
    Bench("small_pictures"),
    Bench("folders", by_name=True),
    Bench("watch", by_name=True),
    Bench("runtimes"),
    Bench("choice"),
    Bench("huge", ("--killed",), ("--quick", "--killed")),
    Bench("tiles"),
    Bench("gigapixel", ("--side", "10000"), module="huge", by_name=True),
    Bench("limited"),
    Bench("steady"),
    Bench("upload"),
    Bench("pollers"),
    Bench("http"),
    Bench("events"),
    Bench("submit"),
    Bench("cache"),
    Bench("scheduling"),
    Bench("cluster_simulation"),
    Bench("estimates"),
    Bench("gpu"),
    Bench("importing"),
    Bench("fidelity", by_name=True),
)
"""In the order of docs/performance.md: speed, memory, HTTP, scheduling, GPUs."""


def run(bench: Bench, quick: bool) -> bool:
    """Run one bench and show its output; tell whether it succeeded."""
    arguments = bench.quick if quick else bench.full
    print(f"\n## {bench.name} {' '.join(arguments)}\n", flush=True)
    began = time.monotonic()
    command = [sys.executable, "-m", f"bench.{bench.module or bench.name}", *arguments]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            ended = process.wait()
        except KeyboardInterrupt:
            process.terminate()  # it stops its server and deletes its folder
            raise
    print(f"\n{time.monotonic() - began:.0f} s, status {ended}", flush=True)
    return ended == 0


def summary(names: Sequence[str], failed: Sequence[str], folder: Path) -> tuple[str, bool]:
    """Return a table of all figures that have a target, and whether all were met.

    Benches that failed and figures that could not be measured are in the table too.
    """
    rows: list[list[str]] = []
    good = not failed
    for name in names:
        result = load(folder / f"{name}.json")
        if name in failed or result is None:
            rows.append([name, "**the bench failed**", "", "", ""])
            continue
        for figure in figures_of(result):
            if figure.target is not None or figure.value is None:
                rows.append([name, *figure.cells()])
            good = good and figure.met is not False
    return table(["bench", "what", "target", "measured", ""], rows), good


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bench/all",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [bench.name for bench in BENCHES]
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"{', '.join(names)}; default: all but gigapixel, folders, watch and "
        "fidelity, which take up to half an hour each",
    )
    parser.add_argument("--quick", action="store_true", help="smaller pictures, fewer rounds")
    parser.add_argument("--document", action="store_true", help="only write the tables in docs/")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(names):
        parser.error(f"there is no bench {', '.join(sorted(unknown))}; there are {names}")
    chosen = [
        bench
        for bench in BENCHES
        if (bench.name in options.names if options.names else not bench.by_name)
    ]
    if options.document:
        rewrite(names)
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    failed = [bench.name for bench in chosen if not run(bench, options.quick)]
    if not options.quick:
        rewrite(bench.name for bench in chosen if bench.name not in failed)
    folder = RESULTS / "quick" if options.quick else RESULTS
    text, good = summary([bench.name for bench in chosen], failed, folder)
    print(f"\n## All figures\n\n{machine_line(machine())}\n\n{text}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
