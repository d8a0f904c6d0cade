"""The pictures of jobs as views show them: the source and the result."""

from __future__ import annotations

import asyncio
from pathlib import Path

from upscaled.errors import NoViewError, ResultGoneError, WrongStateError
from upscaled.jobs.job import Job
from upscaled.jobs.results import result_of
from upscaled.jobs.workspace import Workspace
from upscaled.service.view_cache import ViewCache, ViewedPicture

SOURCE, RESULT = "source", "result"
SIDES = (SOURCE, RESULT)
"""What a job has to show."""


class JobViews:
    """Finds the pictures of a job.

    Args:
        workspace: where they are.
        views: makes views of them.
    """

    def __init__(self, workspace: Workspace, views: ViewCache) -> None:
        self._workspace = workspace
        self._views = views

    async def picture(self, job: Job, side: str) -> ViewedPicture:
        """Return the picture on one of `SIDES`.

        Raises:
            NoViewError: the job has none, or none any more.
        """
        picture = self._source(job) if side == SOURCE else self._result(job)
        return await self._found(job, side, picture)

    async def _found(self, job: Job, side: str, picture: ViewedPicture) -> ViewedPicture:
        """Return a picture whose file is there."""
        if not await asyncio.to_thread(_is_there, picture.path):
            raise NoViewError(f"The {side} of this job is no longer on the server.")
        return picture

    async def pictures(self, job: Job) -> dict[str, ViewedPicture | None]:
        """Return the pictures that there are, by side."""
        found: dict[str, ViewedPicture | None] = {}
        for side in SIDES:
            try:
                found[side] = await self.picture(job, side)
            except NoViewError:
                found[side] = None
        return found

    def _source(self, job: Job) -> ViewedPicture:
        path = self._workspace.upload_of(job.id)
        return ViewedPicture(path, job.input_sha256 or job.id, job.input_size, job.owner)

    def _result(self, job: Job) -> ViewedPicture:
        try:
            result = result_of(job, self._workspace.folder(job.id))
        except (WrongStateError, ResultGoneError) as error:
            raise NoViewError(error.message) from None
        return ViewedPicture(result.path, result.sha256, job.request.output_size, job.owner)

    async def forget(self, job: Job) -> None:
        """Delete the views of a job whose pictures are gone."""
        gone = [self._source(job)]
        if output := job.receipt.get("output"):
            folder, size = self._workspace.folder(job.id), job.request.output_size
            gone.append(ViewedPicture(folder, output["sha256"], size, job.owner))
        await self._views.forget(*gone)


def _is_there(path: Path) -> bool:
    return path.is_file()
