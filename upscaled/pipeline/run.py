"""A result in the making: what it is made from and with, and how far it is."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from upscaled.engines.engine import ModelFiles, is_small
from upscaled.engines.pool import Place
from upscaled.errors import NoSpaceError
from upscaled.imaging import NOTHING_WRITTEN, Finished, FinishOptions, Prepared, Written
from upscaled.jobs.job import Job
from upscaled.pictures import RawImage
from upscaled.pipeline import checkpoint
from upscaled.pipeline.checkpoint import Checkpoint
from upscaled.pipeline.confirmation import Confirmation

# Where in the percentage the stages end. Inference is nearly all of the time of nearly all jobs.
_PREPARED = 1
UPSCALED = 95


@dataclass
class Timings:
    """Seconds by stage."""

    stages: dict[str, float] = field(default_factory=dict)

    def add(self, stage: str, since: float) -> None:
        """Add the time from ``since`` (of `time.monotonic`) until now to a stage."""
        self.stages[stage] = self.stages.get(stage, 0.0) + time.monotonic() - since


@dataclass(frozen=True)
class Product:
    """A verified result and how it came about."""

    finished: Finished
    model: ModelFiles
    place: Place
    param_sha256: str
    bin_sha256: str
    program_sha256: str | None
    """Of the native program, where it was the engine."""
    tile_size: int
    timings: Timings
    libraries: tuple[str, ...]
    """Names and versions of what ran the network, where the engine was our own."""
    engine_seconds: float
    """What it took of the engine's time, as `UpscaleOutcome` counts it."""
    resumed: bool
    """An earlier run of the server did part of it."""


class PipelineRun:
    """One job's result in the making."""

    def __init__(
        self,
        job: Job,
        prepared: Prepared,
        native: RawImage,
        model: ModelFiles,
        folder: Path,
        key: str,
        param_sha256: str,
        bin_sha256: str,
    ) -> None:
        self.job = job
        self.prepared = prepared
        self.native = native
        self.model = model
        self.folder = folder
        self.key = key
        self.param_sha256 = param_sha256
        self.bin_sha256 = bin_sha256
        self.program_sha256: str | None = None
        request = job.request
        self.options = FinishOptions(
            format=request.format,
            size=request.output_size,
            quality=request.quality,
            lossless=request.lossless,
            background=request.background,
            keep_metadata=request.keep_metadata,
        )
        self.doubts = Confirmation(native, model.native_scale)
        self.careful = False
        """A band was doubted: none is begun before the one before it is finished."""
        self.written = NOTHING_WRITTEN
        self.tile_size = 0
        """What the bands that are done were made with."""
        self.began = 0
        """Rows of the source that an earlier run has done."""
        self.engine_seconds = 0.0
        self.libraries: tuple[str, ...] = ()

    @property
    def height(self) -> int:
        """Rows of the source."""
        return self.prepared.source.size.height

    @property
    def is_small(self) -> bool:
        """Whether the picture can share an engine with others like it."""
        return is_small(self.prepared.source.size)

    def percent(self, rows: float) -> int:
        """Return the percentage of a job that has so many rows of its source."""
        return _PREPARED + int(rows / self.height * (UPSCALED - _PREPARED))

    def kind(self, place: Place) -> tuple[Place, Path, int]:
        """Return what such work is alike in: pictures of about a size have about the needs."""
        return place, self.model.param, self.prepared.source.size.pixels.bit_length()

    def go_on_from(self, earlier: Checkpoint) -> None:
        """Take over what an earlier run has done."""
        self.written, self.tile_size = earlier.written, earlier.tile_size
        self.began = earlier.written.source_rows
        self.libraries = earlier.libraries

    def is_run_by(self, library: str | None) -> None:
        """Take note of what runs the network."""
        if library is not None and library not in self.libraries:
            self.libraries = (*self.libraries, library)

    async def done(self, written: Written, tile_size: int) -> None:
        """Take note that another band is finished."""
        self.written, self.tile_size = written, tile_size
        if written.finished is None:
            await self.save()

    async def save(self) -> None:
        """Note on the disk how far this is.

        Raises:
            NoSpaceError: the disk is full.
        """
        now = Checkpoint(self.key, self.tile_size, self.written, self.began, self.libraries)
        try:
            await checkpoint.save(self.folder, now)
        except OSError as error:
            raise NoSpaceError(f"The job's folder can't be written: {error.strerror}.") from error

    def product(self, place: Place, tile_size: int, timings: Timings) -> Product:
        """Return the finished result, and how it came about."""
        assert self.written.finished is not None  # noqa: S101 - the caller saw to it
        return Product(
            finished=self.written.finished,
            model=self.model,
            place=place,
            param_sha256=self.param_sha256,
            bin_sha256=self.bin_sha256,
            program_sha256=self.program_sha256,
            tile_size=tile_size,
            timings=timings,
            libraries=self.libraries,
            engine_seconds=self.engine_seconds,
            resumed=self.began > 0,
        )
