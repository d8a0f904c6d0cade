"""A watched folder into which files are dropped while the command is killed and started again.

    python -m bench.watch [--files 500] [--kills 20] [--quick]

Files of three formats come one after the other, by rename or written in two halves with a pause.
The command is ended by SIGKILL after a random number of results and started again at once, until
all files are done. Then each must have been done once, and its result must be the one of
``upscaled upscale``.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from PIL import Image

from bench.client import FAST
from bench.folders import crop_of, digests, environment
from bench.report import Report
from bench.setup import BenchSetup, bench_setup, make_parser

KINDS = ("png", "jpg", "webp")
SEED = 1
PAUSE = 0.02
"""Seconds between two files, and between the halves of one."""
SETTLE = ("--settle", "0.3", "--interval", "0.1")


def name_of(number: int) -> str:
    """Return the name of a file."""
    return f"p{number:04}.{KINDS[number % len(KINDS)]}"


def drop(folder: Path, made: Path, files: int) -> None:
    """Put the files into the folder, as programs do; every third is written in halves."""
    for number in range(files):
        name = name_of(number)
        content = (made / name).read_bytes()
        if number % 3:
            part = folder.parent / name
            part.write_bytes(content)
            part.rename(folder / name)
        else:
            with (folder / name).open("wb") as file:
                file.write(content[: len(content) // 2])
                file.flush()
                time.sleep(PAUSE)
                file.write(content[len(content) // 2 :])
        time.sleep(PAUSE)


def watch(setup: BenchSetup, inbox: Path, out: Path, told: list[dict[str, str]], end: int) -> None:
    """Run the command until so many further results, then kill it; add its events to ``told``."""
    line = [sys.executable, "-m", "upscaled", "watch", str(inbox), str(out), "--json", "--done",
            "move", "--scale", "2", "--model", FAST, *SETTLE]  # fmt: skip
    env = environment(setup)
    with subprocess.Popen(line, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        count = 0
        for text in process.stdout:
            if not text.endswith("}\n"):
                break  # cut off by the kill
            event = json.loads(text)
            if event["event"] in {"done", "failed"}:
                told.append(event)
                count += 1
                if count == end:
                    process.send_signal(signal.SIGKILL)


def left(inbox: Path, files: int) -> int:
    """Return how many files are not in the folder of done ones."""
    return files - sum(1 for _ in (inbox / "done").glob("p*.*"))


def measure(setup: BenchSetup, options: argparse.Namespace, report: Report) -> None:
    """Fill ``report``."""
    inbox, out, made = (setup.folder / name for name in ("in", "out", "made"))
    inbox.mkdir()
    made.mkdir()
    for number in range(options.files):
        Image.fromarray(crop_of(number)).save(made / name_of(number))
    rng = random.Random(SEED)
    told: list[dict[str, str]] = []
    began = time.perf_counter()
    dropping = threading.Thread(target=drop, args=(inbox, made, options.files))
    dropping.start()
    kills = 0
    share = max(2, options.files // (options.kills + 1))
    while kills < options.kills:
        watch(setup, inbox, out, told, rng.randint(1, share))
        kills += 1
    dropping.join()
    # What a kill interrupted may be done although it was not told; the last run tells the rest.
    while missing := left(inbox, options.files):
        watch(setup, inbox, out, told, missing)
    seconds = time.perf_counter() - began

    done = Counter(event["source"] for event in told if event["event"] == "done")
    plain = setup.folder / "plain"
    line = [sys.executable, "-m", "upscaled", "upscale", str(made), str(plain), "--scale", "2",
            "--model", FAST]  # fmt: skip
    subprocess.run(line, env=environment(setup), check=True, capture_output=True)
    expected, results = digests(plain), digests(out)
    report.add("kills", kills)
    report.add("files not done", options.files - len(results), target=0)
    report.add("files done twice", sum(count > 1 for count in done.values()), target=0)
    report.add("files failed", sum(event["event"] == "failed" for event in told), target=0)
    report.add(
        "results with other bytes than without kills",
        sum(results.get(name) != expected.get(name) for name in results | expected),
        target=0,
    )
    report.add("files left in the folder", sum(p.is_file() for p in inbox.iterdir()), target=0)
    report.add("starts and kills included", options.files / seconds, "files per second")
    report.details = {"files": options.files, "told": len(told), "seconds": seconds}


def main() -> None:
    parser = make_parser("watch", __doc__)
    parser.add_argument("--files", type=int)
    parser.add_argument("--kills", type=int)
    options = parser.parse_args()
    options.files = options.files or (30 if options.quick else 500)
    options.kills = options.kills or (3 if options.quick else 20)
    report = Report("watch", options.quick)
    with bench_setup(options) as setup:
        measure(setup, options, report)
    report.finish()


if __name__ == "__main__":
    main()
