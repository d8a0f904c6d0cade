"""How long an import takes, and how much memory: the official networks as published files.

    python -m bench.importing [--quick]

Each official network's weights are written as its training program published them, and imported by
the command line in an empty folder. Memory is that of the command and all its processes, shared
pages counted once. PyTorch is not needed, and whether it is there is told.
"""

from __future__ import annotations

import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from bench.report import Report
from bench.setup import bench_setup, make_parser
from testkit import checkpoints
from testkit.memory import MIB, MemoryWatch
from upscaled.models.card import read_card

CASES = {
    "realesr-animevideov3-x4": ("compact", checkpoints.pth),
    "realesrgan-x4plus-anime": ("model", checkpoints.legacy_pth),
    "realesrgan-x4plus": ("RRDB_trunk", checkpoints.pth),
}
"""Stem of the network, spelling of its weights, and format of the file."""
QUICK = 1


def run(file: Path, models: Path, folder: Path) -> tuple[float, float]:
    """Import a file; return the seconds and the MiB at the peak."""
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "upscaled", "models", "import", str(file)],
        env={
            "PATH": "/usr/bin:/bin",
            "UPSCALED_UPSCALER_MODELS_PATH": str(models),
            "UPSCALED_STORAGE_DATA_DIR": str(folder / "data"),
        },
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        with MemoryWatch(process.pid, 0.05) as watch:
            said, _ = process.communicate()
        assert process.returncode == 0, said
    print(said, flush=True)
    return time.perf_counter() - began, watch.peak.shared_once / MIB


def main() -> None:
    parser = make_parser("importing", __doc__, device=False)
    options = parser.parse_args()
    report = Report("importing", options.quick)
    with bench_setup(options) as setup:
        for stem, (style, write) in list(CASES.items())[: QUICK if options.quick else None]:
            pair = setup.models / f"{stem}.param", setup.models / f"{stem}.bin"
            file = setup.folder / f"my-{stem}.pth"
            file.write_bytes(write(checkpoints.of_official(*pair, style)))
            models = setup.folder / "imported"
            models.mkdir(exist_ok=True)
            seconds, peak = run(file, models, setup.folder)
            card = read_card(models / f"my-{stem}.yaml")
            assert card is not None
            what = f"{stem}, {file.stat().st_size / MIB:.0f} MiB, {card.size}"
            report.add(f"{what}: time", seconds, "s")
            report.add(f"{what}: memory", peak, "MiB")
    there = "is there" if find_spec("torch") else "is not there"
    print(f"PyTorch {there}.")
    report.details["pytorch"] = there
    report.finish()


if __name__ == "__main__":
    main()
