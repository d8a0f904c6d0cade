"""Results of which the first bytes leave this machine's disk while the others are made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from typing import Protocol

from upscaled.imaging import Piece, ResultProgress
from upscaled.pipeline.checkpoint import Checkpoint


class Keeper(Protocol):
    """Whoever keeps what runs have done of their jobs, apart from the jobs' folders."""

    def note(self, job_id: str, done: Checkpoint) -> None:
        """Keep what is done of a job; called after each band but the last. Returns at once."""
        ...

    def away(self, job_id: str) -> Collection[Piece]:
        """Return the pieces of a job's result that are kept, and are no longer on this disk."""
        ...

    async def begin_anew(self, job_id: str) -> None:
        """Forget what is kept of a result: a run makes it from the first byte on."""
        ...

    async def hold(self, job_id: str) -> int:
        """Let nothing more of a result leave the disk; return how many of its bytes have left."""
        ...

    async def complete(self, job_id: str, written: ResultProgress) -> str:
        """Return the SHA-256 of a complete result that is not on this disk whole.

        Raises:
            EngineError: what is on the disk is not what was written.
        """
        ...


class NothingKept:
    """The keeper of a single machine: the next start reads the jobs' folders."""

    def note(self, job_id: str, done: Checkpoint) -> None:
        """Do nothing."""

    def away(self, job_id: str) -> Collection[Piece]:
        del job_id
        return ()

    async def begin_anew(self, job_id: str) -> None:
        """Do nothing."""

    async def hold(self, job_id: str) -> int:
        del job_id
        return 0

    async def complete(self, job_id: str, written: ResultProgress) -> str:
        """Never called: all results are on the disk whole."""
        del written
        raise AssertionError(f"nothing of job {job_id} is elsewhere")


async def finished(
    keeper: Keeper, job_id: str, finish: Callable[[int], Awaitable[ResultProgress]]
) -> ResultProgress:
    """Finish the last band of a result of which a part may be elsewhere.

    Args:
        keeper: has that part.
        job_id: the job.
        finish: finishes the band, given how many bytes are not in the result's file.

    Raises:
        EngineError: the result on the disk is not what was written; or what ``finish`` raises.
    """
    written = await finish(away := await keeper.hold(job_id))
    if not away or written.finished is None:
        return written
    digest = await keeper.complete(job_id, written)
    return replace(written, finished=replace(written.finished, sha256=digest, away=away))
