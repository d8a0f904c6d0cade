"""Jobs as their callers use them, with results in the blobs."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from upscaled.blobs.blobs import BlobMissingError, Blobs
from upscaled.cluster.content import BlobContent
from upscaled.jobs.content import Content
from upscaled.jobs.results import ResultFile
from upscaled.service.job_access import JobAccess


class SharedJobAccess(JobAccess):
    """`JobAccess` whose results are read from the blobs.

    Args:
        blobs: the files that all machines share.
        parts: those of `JobAccess`.
    """

    def __init__(self, blobs: Blobs, **parts: Any) -> None:
        super().__init__(**parts)
        self._blobs = blobs

    async def open(self, result: ResultFile) -> Content:
        try:
            info = await self._blobs.head(result.key)
        except BlobMissingError as error:
            raise FileNotFoundError(error.message) from error
        return BlobContent(self._blobs, info, result.sha256[:32])

    async def are_there(self, results: Collection[ResultFile]) -> bool:
        try:
            for one in results:
                await self._blobs.head(one.key)
        except BlobMissingError:
            return False
        return True
