"""A tree of mixed files: one run, one that is killed twice, and a plain loop over the same pixels.

    python -m bench.folders [--files 10000] [--compared 1000] [--quick]

The tree has pictures of five formats in three levels of folders; one in a hundred is broken. The
killed run is ended by SIGKILL after a third and after two thirds. What it told, its results and its
summary are compared with those of the undisturbed run.

Throughput is compared on a tree of fewer and larger pictures: with the plain loop, one process of
ncnn and numpy, which neither decodes nor encodes, and with the native program if it is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from bench.client import FAST
from bench.plain import PlainLoop, tiles_of
from bench.report import Report
from bench.setup import BenchSetup, bench_setup, make_parser
from testkit import photos
from testkit.photos import Pixels

SIDES = (48, 64, 80, 96)
SMALL_SIDES = (16, 20, 24, 32)
"""Of the large tree, where only counts and bytes matter."""
KINDS = ("png", "jpg", "webp", "bmp", "tif")
BROKEN_EACH = 100
OF_THE_LOOP = 0.5
"""The command also decodes, compares, encodes and writes."""


@dataclass
class Told:
    """What a run printed, its parts added up where it was killed."""

    seconds: float = 0.0
    done: list[str] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)
    summary: dict[str, object] = field(default_factory=dict)


def crop_of(number: int, sides: tuple[int, ...] = SIDES) -> Pixels:
    """Return the pixels of a picture."""
    return photos.crop(number, sides[number % len(sides)])


def fill(folder: Path, files: int, sides: tuple[int, ...]) -> int:
    """Write the tree; return how many of its files are broken."""
    broken = 0
    for number in range(files):
        place = folder / f"{number % 10}" / f"{number % 7}"
        place.mkdir(parents=True, exist_ok=True)
        path = place / f"p{number:05}.{KINDS[number % len(KINDS)]}"
        Image.fromarray(crop_of(number, sides)).save(path)
        if number % BROKEN_EACH == BROKEN_EACH // 2:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
            broken += 1
    return broken


def environment(setup: BenchSetup) -> dict[str, str]:
    """Return the environment of a command: the bench's models and device, no other settings."""
    device = setup.settings["upscaler.gpu_ids"][0]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("UPSCALED_")}
    return {
        **kept,
        "UPSCALED_UPSCALER_MODELS_PATH": str(setup.models),
        "UPSCALED_UPSCALER_ENGINE": "builtin",
        "UPSCALED_UPSCALER_GPU_IDS": str(device),
        "UPSCALED_STORAGE_DATA_DIR": str(setup.folder / "data"),
    }


def command(tree: Path, out: Path) -> list[str]:
    """Return the command line of a run."""
    return [sys.executable, "-m", "upscaled", "upscale", "--json", "-r", str(tree), str(out),
            "--scale", "2", "--model", FAST]  # fmt: skip


def run(
    setup: BenchSetup, tree: Path, out: Path, told: Told, kill_after: int | None = None
) -> None:
    """Run the command once and add to ``told``; kill it after so many results."""
    line, env = command(tree, out), environment(setup)
    began = time.perf_counter()
    count = 0
    with subprocess.Popen(line, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for text in process.stdout:
            if not text.endswith("}\n"):
                break  # cut off by the kill
            event = json.loads(text)
            if event["event"] == "done":
                told.done.append(event["source"])
                count += 1
                if count == kill_after:
                    process.send_signal(signal.SIGKILL)
            elif event["event"] == "failed":
                told.failed.add(event["source"])
            elif event["event"] == "summary":
                told.summary = event
    told.seconds += time.perf_counter() - began


def digests(out: Path) -> dict[str, str]:
    """Return the SHA-256 of each result."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in out.rglob("p*.*")
        if ".upscaled" not in path.parts
    }


def looped(setup: BenchSetup, files: int, device: int) -> float:
    """Return the seconds of the plain loop for the pictures of the tree."""
    loop = PlainLoop(setup.models, f"{FAST}-x2", device)
    seconds = 0.0
    for number in range(files):
        if number % BROKEN_EACH != BROKEN_EACH // 2:
            crop = crop_of(number)
            seconds += loop.seconds(crop, tiles_of(crop, max(SIDES)))
    return seconds


def native_program() -> str | None:
    """Return the native program, if one is installed."""
    names = ("upscayl-bin", "realesrgan-ncnn-vulkan")
    return next((found for name in names if (found := shutil.which(name))), None)


def native_folders(tree: Path) -> Iterator[Path]:
    """Yield the folders of the tree that have files: the program enters none by itself."""
    for folder, _, names in os.walk(tree):
        if names:
            yield Path(folder)


def native(program: str, setup: BenchSetup, tree: Path) -> float:
    """Return the seconds that the native program takes for all folders."""
    began = time.perf_counter()
    for folder in native_folders(tree):
        out = setup.folder / "native" / folder.relative_to(tree)
        out.mkdir(parents=True)
        places = ["-i", str(folder), "-o", str(out), "-m", str(setup.models)]
        line = [program, *places, "-n", FAST, "-s", "2"]
        subprocess.run(line, check=False, capture_output=True)
    return time.perf_counter() - began


def measure(setup: BenchSetup, options: argparse.Namespace, report: Report) -> None:
    """Fill ``report``."""
    tree = setup.folder / "tree"
    broken = fill(tree, options.files, SMALL_SIDES)
    warm = setup.folder / "warm"  # the models are measured once, and kernels compiled
    run(setup, tree / "0" / "0", warm, Told())

    whole = Told()
    run(setup, tree, setup.folder / "whole", whole)
    again = Told()
    run(setup, tree, setup.folder / "whole", again)
    killed = Told()
    third = options.files // 3
    for kill_after in (third, third, None):
        run(setup, tree, setup.folder / "killed", killed, kill_after)

    expected = options.files - broken
    results = digests(setup.folder / "whole")
    rest = digests(setup.folder / "killed")
    differing = sum(results.get(name) != rest.get(name) for name in results | rest)
    wrong = sum((len(whole.done) != expected, len(whole.failed) != broken,
                 whole.summary.get("failed") != broken, killed.summary.get("failed") != broken,
                 len(killed.failed) != broken, len(results) != expected))  # fmt: skip
    report.add("wrong counts in events, summaries and results", wrong, target=0)
    report.add("pictures made twice in the run that was killed twice",
               len(killed.done) - len(set(killed.done)), target=0)  # fmt: skip
    report.add("results with other bytes than without kills", differing, target=0)
    report.add("the run that was killed twice, in all", killed.seconds / whole.seconds, "times")
    report.add("the same command again", again.seconds, "s", note="nothing changed")
    compare(setup, options, report)
    report.details = {"files": options.files, "broken": broken, "seconds": whole.seconds}


def compare(setup: BenchSetup, options: argparse.Namespace, report: Report) -> None:
    """Compare throughput on a tree of ``options.compared`` files."""
    tree = setup.folder / "compared"
    expected = options.compared - fill(tree, options.compared, SIDES)
    ours = Told()
    run(setup, tree, setup.folder / "compared-out", ours)
    loop = looped(setup, options.compared, options.device)
    report.add("throughput against the plain loop", loop / ours.seconds, target=OF_THE_LOOP,
               sense="at least", note="its start included")  # fmt: skip
    report.add("the command", expected / ours.seconds, "pictures per second")
    report.add("the plain loop", expected / loop, "pictures per second")
    program = native_program()
    report.add(
        "the native program on the same folders",
        expected / native(program, setup, tree) if program else None,
        "pictures per second",
        note="" if program else "none is installed",
    )


def main() -> None:
    parser = make_parser("folders", __doc__)
    parser.add_argument("--files", type=int)
    parser.add_argument("--compared", type=int, help="files of the tree for the throughput")
    options = parser.parse_args()
    options.files = options.files or (300 if options.quick else 10_000)
    options.compared = options.compared or min(options.files, 1000)
    report = Report("folders", options.quick or options.files < 10_000)
    with bench_setup(options) as setup:
        measure(setup, options, report)
    report.finish()


if __name__ == "__main__":
    main()
