"""`RunRecord`: what a run has done so far, as its checkpoint and its result tell it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from upscaled.errors import OUT_OF_SPACE, NoSpaceError, no_room
from upscaled.imaging import NOTHING_WRITTEN, ResultProgress
from upscaled.jobs.job import Job
from upscaled.jobs.results import result_name
from upscaled.pipeline import checkpoint
from upscaled.pipeline.checkpoint import Checkpoint
from upscaled.pipeline.execution import Execution
from upscaled.pipeline.result import IdentifiedModel, RunResult, StageSeconds


@dataclass
class RunRecord:
    """What a run, with the earlier runs that it continues, has done."""

    written: ResultProgress = NOTHING_WRITTEN
    tile_size: int = 0
    """Tile size of the finished bands."""
    resumed_rows: int = 0
    """Source rows that an earlier run finished."""
    execution: Execution = field(default_factory=Execution)
    seconds: StageSeconds = field(default_factory=StageSeconds)
    engine_seconds: float = 0.0

    def resume(self, earlier: Checkpoint) -> None:
        """Continue from where an earlier run ended."""
        self.written, self.tile_size = earlier.written, earlier.tile_size
        self.resumed_rows = earlier.written.source_rows
        self.execution = earlier.execution
        self.seconds.stages["resumed"] = earlier.seconds

    async def save(self, folder: Path, work: str) -> Checkpoint:
        """Write the checkpoint and return it.

        Args:
            folder: of the job.
            work: identifies the work, see `checkpoint.work_key`.

        Raises:
            NoSpaceError: the disk is full.
        """
        with _full_disk_told():
            done = self._checkpoint(work)
            await checkpoint.save(folder, done)
            return done

    async def seal(self, folder: Path, work: str, job: Job, model: IdentifiedModel) -> RunResult:
        """Give the complete result its name and return it.

        Raises:
            NoSpaceError: the disk is full.
        """
        finished, place = self.written.finished, self.execution.place
        assert finished is not None and place is not None  # noqa: S101 - all is done
        with _full_disk_told():
            path = await checkpoint.seal(folder, self._checkpoint(work), result_name(job))
        return RunResult(
            path=path,
            finished=finished,
            model=model,
            place=place,
            execution=self.execution,
            tile_size=self.tile_size,
            seconds=self.seconds,
            engine_seconds=self.engine_seconds,
            resumed=self.resumed_rows > 0,
        )

    def _checkpoint(self, work: str) -> Checkpoint:
        return Checkpoint.of(
            work, self.tile_size, self.written, self.resumed_rows, self.seconds.total,
            self.execution,
        )  # fmt: skip


@contextlib.contextmanager
def _full_disk_told() -> Iterator[None]:
    """Raise `NoSpaceError` for what a full disk refuses."""
    try:
        yield
    except OSError as error:
        if error.errno not in OUT_OF_SPACE:
            raise
        words = f"The job's folder can't be written: {error.strerror}."
        raise NoSpaceError(no_room(error, words)) from error
