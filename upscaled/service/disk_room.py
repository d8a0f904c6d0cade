"""DiskRoom: lets jobs that met a full disk wait until there is room for them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path

from upscaled.jobs.job import Job
from upscaled.jobs.workspace import UPLOAD, Workspace

_LOOK_SECONDS = 5.0
"""How often a waiting job checks the disk, since room freed by other programs is not reported."""
_BLOCK_BYTES = 512
"""The unit of ``st_blocks`` (stat(2))."""


class DiskRoom:
    """Tells waiting jobs, one at a time, that the disk has room for them.

    Room counts as taken from the moment a job is told until `forget`, since the job has not written
    its files yet. Bytes it has written count only once.

    Args:
        workspace: holds the files of jobs.
        need: returns the bytes that a job needs on disk altogether.
        under_way: returns the jobs that are writing files.
    """

    def __init__(
        self,
        workspace: Workspace,
        need: Callable[[Job], int],
        under_way: Callable[[], Iterable[Job]],
    ) -> None:
        self._workspace = workspace
        self._need = need
        self._under_way = under_way
        self._told: dict[str, Job] = {}
        self.waiting: dict[str, int] = {}
        """Ids of the jobs that wait, with the bytes that each needs."""
        self._looking = asyncio.Lock()
        self._job_ended = asyncio.Event()

    async def wait(self, job: Job) -> bool:
        """Wait until the disk has room for ``job``; True if it had none at first.

        Raises:
            UnknownModelError: the job's model is gone, so what it needs is unknown.
        """
        waited = False
        try:
            while not await self._take(job):
                waited = True
                self.waiting[job.id] = self._need(job)
                self._job_ended.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await self._job_ended.wait()
        finally:
            self.waiting.pop(job.id, None)
        return waited

    def forget(self, job_id: str) -> None:
        """Free the room of a job that has ended or waits again."""
        self._told.pop(job_id, None)
        self._job_ended.set()

    async def _take(self, job: Job) -> bool:
        async with self._looking:
            need = self._need(job)
            others = {other.id: other for other in (*self._under_way(), *self._told.values())}
            others.pop(job.id, None)
            expected = [
                (self._workspace.folder(other.id), self._need(other)) for other in others.values()
            ]
            wanted = need + await asyncio.to_thread(_unwritten, expected)
            if await self._workspace.free_bytes(wanted) < wanted:
                return False
            self._told[job.id] = job
            return True


def _unwritten(expected: list[tuple[Path, int]]) -> int:
    """Return the bytes that jobs have not written yet, given their folders and needs."""
    return sum(max(0, need - _used(folder)) for folder, need in expected)


def _used(folder: Path) -> int:
    used = 0
    with contextlib.suppress(OSError):  # files can disappear meanwhile
        for path in folder.iterdir():
            if path.name != UPLOAD:  # it is not part of the need
                used += path.stat().st_blocks * _BLOCK_BYTES
    return used
