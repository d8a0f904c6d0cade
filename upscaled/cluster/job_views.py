"""The pictures of jobs as views show them, from the blobs."""

from __future__ import annotations

from dataclasses import replace

from upscaled.blobs.blobs import BlobMissingError
from upscaled.cluster import keys
from upscaled.cluster.copies import Copies
from upscaled.errors import NoViewError
from upscaled.jobs.job import Job
from upscaled.jobs.workspace import Workspace
from upscaled.service.job_views import SOURCE, JobViews
from upscaled.service.view_cache import ViewCache, ViewedPicture


class SharedJobViews(JobViews):
    """`JobViews` of jobs whose files are in the blobs.

    Args:
        workspace: names the files of jobs.
        views: makes views of them.
        copies: copies them to this machine.
    """

    def __init__(self, workspace: Workspace, views: ViewCache, copies: Copies) -> None:
        super().__init__(workspace, views)
        self._copies = copies

    async def _found(self, job: Job, side: str, picture: ViewedPicture) -> ViewedPicture:
        key = keys.upload(job.id) if side == SOURCE else job.result_key
        try:
            return replace(picture, path=await self._copies.of(key))
        except BlobMissingError:
            raise NoViewError(f"The {side} of this job is no longer on the server.") from None
