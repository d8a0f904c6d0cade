"""Checkpoints: record how much of a picture is done, so that a later run can continue.

A checkpoint is not flushed to disk, since that would take many seconds for a large picture. Instead
it holds the checksums of all data it builds on. Data lost in a power cut is noticed and made again.
"""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

from upscaled import __version__, files, serial
from upscaled.engines.cpu_method import CpuMethod
from upscaled.engines.pool import Place
from upscaled.imaging import PART, Finished, Piece, ResultProgress
from upscaled.pipeline.execution import Execution

NATIVE = "native.rgb"
"""Name of the file of the engine's output in a job's folder."""
_NAME = "checkpoint"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Checkpoint:
    """The progress of a job. A format on disk: fields may be added but not changed."""

    work: str
    """The `work_key` of this work: bands of other work must not be combined with these."""
    tile_size: int
    written: ResultProgress
    began: int = 0
    """Source rows that were done when this run began."""
    libraries: tuple[str, ...] = ()
    seconds: float = 0.0
    """Time of this run and earlier ones so far."""
    # The fields of `Execution` are side by side with the others, as in earlier checkpoints.
    place: Place | None = None
    program_sha256: str | None = None
    way: CpuMethod | None = None
    """`Execution.method`, by the name that earlier checkpoints have."""
    tiles_at_once: int = 0
    threads_per_tile: int = 0
    helpers: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        work: str,
        tile_size: int,
        written: ResultProgress,
        began: int,
        seconds: float,
        how: Execution,
    ) -> Checkpoint:
        return cls(
            work,
            tile_size,
            written,
            began,
            how.libraries,
            seconds,
            how.place,
            how.program_sha256,
            how.method,
            how.tiles_at_once,
            how.threads_per_tile,
            how.helpers,
        )

    @property
    def execution(self) -> Execution:
        """How the work was done; a later run goes on by the same method."""
        return Execution(
            self.place,
            self.program_sha256,
            self.libraries,
            self.way,
            self.tiles_at_once,
            self.threads_per_tile,
            self.helpers,
        )


def work_key(param_sha256: str, bin_sha256: str, native_scale: int, *, grey: bool = False) -> str:
    """Return the `Checkpoint.work` of a network, and of this program."""
    key = f"{__version__} {param_sha256} {bin_sha256} {native_scale}"
    # Earlier results of grey pictures had three channels.
    return f"{key} grey" if grey else key


async def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint of the job in ``folder``.

    Raises:
        OSError: it can't be written.
    """
    await asyncio.to_thread(_save, folder, checkpoint)


async def seal(folder: Path, checkpoint: Checkpoint, name: str) -> Path:
    """Give a complete result its ``name``; it survives a power cut once this returns.

    The checkpoint comes first: a run that is interrupted after that finds the result, under
    whichever of its names, proved by its SHA-256.

    Raises:
        OSError: a file can't be written.
    """
    return await asyncio.to_thread(_seal, folder, checkpoint, name)


async def load(folder: Path, work: str, name: str) -> Checkpoint | None:
    """Return the checkpoint of the job in ``folder``; None without one that can be built on.

    Args:
        folder: the job's.
        work: the `work_key` of the job's work.
        name: the name of its result.
    """
    return await asyncio.to_thread(_load_intact, folder, work, name)


async def has_advanced(folder: Path) -> bool:
    """Tell whether the last run of the job in ``folder`` finished at least one band."""
    checkpoint = await asyncio.to_thread(_load, folder)
    return checkpoint is not None and checkpoint.written.source_rows > checkpoint.began


def _save(folder: Path, checkpoint: Checkpoint) -> None:
    files.replace(folder / _NAME, serial.encode(checkpoint))


def _seal(folder: Path, checkpoint: Checkpoint, name: str) -> Path:
    _save(folder, checkpoint)
    part, path = folder / PART, folder / name
    if part.exists():  # else an earlier run has renamed it
        files.sync(part)
        part.rename(path)
    files.sync(folder)
    return path


def _load(folder: Path) -> Checkpoint | None:
    try:
        return serial.decode((folder / _NAME).read_bytes(), Checkpoint)
    except (OSError, ValueError):
        return None  # none was written, or a power cut left it incomplete


def _load_intact(folder: Path, work: str, name: str) -> Checkpoint | None:
    checkpoint = _load(folder)
    if checkpoint is None or checkpoint.work != work:
        return None
    written = checkpoint.written
    if written.finished is not None:
        for path in (folder / PART, folder / name):
            if _is_result(path, written.finished):
                finished = replace(written.finished, path=path)
                return replace(checkpoint, written=replace(written, finished=finished))
        return None
    return checkpoint if all(_is_intact(folder, piece) for piece in written.pieces) else None


def _is_result(path: Path, finished: Finished) -> bool:
    try:
        if path.stat().st_size != finished.file_size_bytes:
            return False
        return files.sha256_of(path) == finished.sha256
    except OSError:
        return False


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
