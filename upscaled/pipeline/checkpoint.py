"""Checkpoints: how far a job's picture is, so that a later run goes on from there.

Nothing of a checkpoint is flushed to the disk, which would cost a large picture many seconds. It
holds the checksums of all it builds on instead: what a power cut took is noticed, and made again.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upscaled import __version__, files, serial
from upscaled.imaging import Piece, Written

_NAME = "checkpoint"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Checkpoint:
    """What of a job is done."""

    work: str
    """What was done it with: bands of something else must not be put beside these."""
    tile_size: int
    written: Written
    began: int = 0
    """Rows of the source that were done when this run began."""
    libraries: tuple[str, ...] = ()
    """What ran the network, with versions, as far as that is known."""


def work_key(param_sha256: str, bin_sha256: str, native_scale: int, *, grey: bool = False) -> str:
    """Return the `Checkpoint.work` of a network, and of this program."""
    key = f"{__version__} {param_sha256} {bin_sha256} {native_scale}"
    # Results of grey pictures had three channels at first.
    return f"{key} grey" if grey else key


async def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint of the job in ``folder``.

    Raises:
        OSError: it can't be written.
    """
    await asyncio.to_thread(_save, folder, checkpoint)


async def load(folder: Path, work: str) -> Checkpoint | None:
    """Return the checkpoint of the job in ``folder``; None without one that can be built on."""
    checkpoint = await asyncio.to_thread(_load, folder)
    if checkpoint is None or checkpoint.work != work:
        return None
    intact = await asyncio.to_thread(
        lambda: all(_is_intact(folder, piece) for piece in checkpoint.written.pieces)
    )
    return checkpoint if intact else None


async def has_advanced(folder: Path) -> bool:
    """Tell whether the last run of the job in ``folder`` finished a band at least."""
    checkpoint = await asyncio.to_thread(_load, folder)
    return checkpoint is not None and checkpoint.written.source_rows > checkpoint.began


def _save(folder: Path, checkpoint: Checkpoint) -> None:
    document = {
        "work": checkpoint.work,
        "tile_size": checkpoint.tile_size,
        "written": serial.plain(checkpoint.written),
        "began": checkpoint.began,
        "libraries": checkpoint.libraries,
    }
    files.replace(folder / _NAME, json.dumps(document).encode())


def _load(folder: Path) -> Checkpoint | None:
    try:
        document: dict[str, Any] = json.loads((folder / _NAME).read_text("utf-8"))
        return Checkpoint(
            document["work"],
            document["tile_size"],
            serial.convert(document["written"], Written),
            document["began"],
            tuple(document["libraries"]),
        )
    except (OSError, ValueError, LookupError, TypeError):
        return None  # none was written, or a power cut has left half of one


def _is_intact(folder: Path, piece: Piece) -> bool:
    check, left = 0, piece.length
    try:
        with (folder / Path(piece.name).name).open("rb") as file:
            file.seek(piece.offset)
            while left and (content := file.read(min(left, _BLOCK))):
                check = zlib.crc32(content, check)
                left -= len(content)
    except OSError:
        return False
    return left == 0 and check == piece.crc32
