"""What the benches share: command-line options, a temporary folder, the models."""

from __future__ import annotations

import argparse
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from upscaled.models.install import install


@dataclass(frozen=True)
class BenchSetup:
    """A temporary folder, the folder with the models, and settings for every server."""

    folder: Path
    models: Path
    settings: dict[str, Any] = field(default_factory=dict)


def make_parser(name: str, doc: str | None, *, device: bool = True) -> argparse.ArgumentParser:
    """Return a parser with ``--quick`` and, where the device matters, ``--device``."""
    parser = argparse.ArgumentParser(
        prog=f"bench.{name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller pictures")
    if device:
        parser.add_argument(
            "--device", type=int, default=-1, help="a Vulkan device's index; -1: CPU"
        )
    return parser


def _interrupted(number: int, _: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # a second signal must not interrupt the clean-up
    raise KeyboardInterrupt


@contextmanager
def bench_setup(options: argparse.Namespace) -> Iterator[BenchSetup]:
    """Make a temporary folder with the models in it, for the length of the block."""
    # On SIGTERM too, a bench stops its server and deletes its folder.
    signal.signal(signal.SIGTERM, _interrupted)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        install(folder / "models")
        device = getattr(options, "device", -1)
        # Benches send one picture again and again, and want the work done each time.
        settings = {"upscaler.gpu_ids": [device], "features.join_identical": False}
        yield BenchSetup(folder, folder / "models", settings)
