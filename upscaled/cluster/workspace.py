"""The workspace of an API server: uploads arrive on its disk and move to the shared blobs."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from upscaled.blobs.blobs import BlobMissingError, Blobs, delete_below, fetch
from upscaled.cluster import keys
from upscaled.errors import StoreUnavailableError
from upscaled.jobs.workspace import Workspace

log = logging.getLogger(__name__)

_DELETE_SECONDS = 5.0
"""A caller waits for the deletion."""


class SharedWorkspace(Workspace):
    """`Workspace` whose jobs have their files in the blobs, and only briefly on the disk.

    Args:
        data_dir: this server's own folder.
        blobs: the files that all machines share.
        keeps_uploads: the upload of a job stays beside its result, and after a failure.
    """

    def __init__(self, data_dir: Path, blobs: Blobs, *, keeps_uploads: bool) -> None:
        super().__init__(data_dir, keeps_uploads=keeps_uploads)
        self.blobs = blobs

    async def flush(self, job_id: str) -> None:
        """Put a job's upload into the blobs.

        Raises:
            NoSpaceError: they are full.
            StoreUnavailableError: they don't answer.
        """
        await self.blobs.put(keys.upload(job_id), self.upload_of(job_id))

    async def drop_local(self, job_id: str) -> None:
        """Delete what is on this machine of a job."""
        await super().remove(job_id)

    async def remove(self, job_id: str) -> None:
        """Delete all files of a job, here and in the blobs; never raises.

        The clean-up later deletes what can't be deleted now.
        """
        await super().remove(job_id)
        try:
            async with asyncio.timeout(_DELETE_SECONDS):
                await self.blobs.delete(keys.upload(job_id))
                await delete_below(self.blobs, f"{keys.RESULTS}/{job_id}")
        except (StoreUnavailableError, TimeoutError) as error:
            log.warning(
                "job's files can't be deleted yet", extra={"job": job_id, "reason": str(error)}
            )

    async def remove_work(self, job_id: str, ended: float) -> None:
        del ended  # how long uploads are kept is counted by the database's clock
        if self.keeps_uploads:
            await self.drop_local(job_id)
        else:
            await self.remove(job_id)
        try:
            async with asyncio.timeout(_DELETE_SECONDS):
                await delete_below(self.blobs, keys.bands(job_id))
        except (StoreUnavailableError, TimeoutError) as error:
            log.warning(
                "job's bands can't be deleted yet", extra={"job": job_id, "reason": str(error)}
            )

    async def take_upload(self, job_id: str, path: Path) -> None:
        try:
            await fetch(self.blobs, keys.upload(job_id), path)
        except BaseException as error:
            await self.discard(path)
            if isinstance(error, BlobMissingError):
                raise FileNotFoundError(error.message) from error
            raise
