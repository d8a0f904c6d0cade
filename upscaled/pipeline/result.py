"""The callbacks and the result of a pipeline run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from upscaled.engines.engine import ModelFiles
from upscaled.engines.pool import Place
from upscaled.imaging import Finished, FinishOptions
from upscaled.jobs.job import Attempt, JobRequest
from upscaled.pipeline.execution import Execution


def finish_options(request: JobRequest) -> FinishOptions:
    """Return how the result of a job is written."""
    return FinishOptions(
        format=request.format,
        size=request.output_size,
        quality=request.quality,
        lossless=request.lossless,
        background=request.background,
        keep_metadata=request.keep_metadata,
    )


@dataclass(frozen=True)
class RunCallbacks:
    """Whom a run tells of its slots, progress and attempts."""

    started: Callable[[Place], None]
    """The job got a slot; called for every attempt."""
    progress: Callable[[int], None]
    """Percent, 0 to 99."""
    attempted: Callable[[Attempt], None]


@dataclass
class StageSeconds:
    """Seconds by stage: ``prepare``, ``wait`` (for a slot), ``upscale``, ``finish``, ``resumed``.

    ``resumed`` is what earlier runs of the server spent on the job, all stages together.
    """

    stages: dict[str, float] = field(default_factory=dict)

    def add(self, stage: str, since: float) -> float:
        """Add the time from ``since`` (of `time.monotonic`) until now to a stage; return it."""
        seconds = time.monotonic() - since
        self.stages[stage] = self.stages.get(stage, 0.0) + seconds
        return seconds

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self.stages.values())


@dataclass(frozen=True)
class IdentifiedModel:
    """A network's files with their SHA-256, and its licence."""

    files: ModelFiles
    param_sha256: str
    bin_sha256: str
    license: str | None = None
    """As the model's card names it; None: unknown."""


@dataclass(frozen=True)
class RunResult:
    """A verified result file and how it was made."""

    path: Path
    finished: Finished
    model: IdentifiedModel
    place: Place
    execution: Execution
    tile_size: int
    seconds: StageSeconds
    engine_seconds: float
    """Engine time, as `UpscaleOutcome` counts it."""
    resumed: bool
    """Whether an earlier run of the server did part of the work."""
