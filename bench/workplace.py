"""What every bench's command line offers, and the folder that it works in."""

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
class Workplace:
    """A temporary folder, the models, and settings that every server gets."""

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
    signal.signal(number, signal.SIG_IGN)  # a second one would end the tidying up
    raise KeyboardInterrupt


@contextmanager
def workplace(options: argparse.Namespace) -> Iterator[Workplace]:
    """Make the folder and put the models there, for the length of the block."""
    # Ended by somebody's patience, a bench stops its server and takes its folder away too.
    signal.signal(signal.SIGTERM, _interrupted)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        install(folder / "models")
        device = getattr(options, "device", -1)
        yield Workplace(folder, folder / "models", {"upscaler.gpu_ids": [device]})
