"""Helped pictures: pictures of other workers, fetched and decoded here to make bands of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from upscaled.blobs.blobs import BlobMissingError, Blobs, fetch
from upscaled.cluster import keys
from upscaled.cluster.lending import sha256_around
from upscaled.cluster.offered_bands import Claim
from upscaled.errors import StoreUnavailableError, UpscaledError
from upscaled.imaging import Imaging, Prepared
from upscaled.jobs.job import Job
from upscaled.jobs.workspace import UPLOAD, Workspace
from upscaled.pictures import RawImage
from upscaled.pipeline import checkpoint
from upscaled.pipeline.result import IdentifiedModel


class CannotHelpError(UpscaledError):
    """A band can't be made here as it would be where its job is."""


@dataclass(frozen=True)
class HelpedPicture:
    """A picture of another worker."""

    folder: Path
    prepared: Prepared
    model: IdentifiedModel

    async def native_for(self, claim: Claim) -> RawImage:
        """Return where the rows of a band go.

        Raises:
            CannotHelpError: they would have other bytes than where the job is.
        """
        scale, (top, bottom) = self.model.files.native_scale, claim.rows
        size = self.prepared.source.size
        work = checkpoint.work_key(
            self.model.param_sha256, self.model.bin_sha256, scale, grey=self.prepared.grey
        )
        if work != claim.recipe.work or not 0 <= top < bottom <= size.height:
            raise CannotHelpError("This worker has another network or version.")
        if await asyncio.to_thread(sha256_around, self.prepared.source, claim.rows) != (
            claim.recipe.source_sha256
        ):
            raise CannotHelpError("The picture is decoded to other bytes here.")
        return RawImage(self.folder / f"native-{top}", size.times(scale))


@dataclass(eq=False)
class _Place:
    """Where a picture is, or comes."""

    closing: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while it is fetched and decoded."""
    folder: Path | None = None
    picture: HelpedPicture | None = None
    users: int = 0


class HelpedPictures:
    """Fetches and decodes pictures of other workers, each once for all of its bands.

    Args:
        blobs: where uploads are.
        workspace: the worker's own.
        imaging: decodes.
        identify: returns the network that does a job's work.
    """

    def __init__(
        self,
        blobs: Blobs,
        workspace: Workspace,
        imaging: Imaging,
        identify: Callable[[Job], Awaitable[IdentifiedModel]],
    ) -> None:
        self._blobs = blobs
        self._workspace = workspace
        self._imaging = imaging
        self._identify = identify
        self._places: dict[tuple[str, int], _Place] = {}

    @contextlib.asynccontextmanager
    async def held(self, claim: Claim) -> AsyncIterator[HelpedPicture]:
        """Hold the decoded picture of a claim for the length of the block.

        Raises:
            UpscaledError: it can't be fetched or decoded.
            OSError: the disk is full or broken.
        """
        place = self._places.setdefault(claim.key[:2], _Place())
        place.users += 1
        try:
            async with place.lock:
                if place.picture is None:
                    place.picture = await self._prepared(claim.job, place)
            yield place.picture
        finally:
            place.users -= 1

    async def _prepared(self, job: Job, place: _Place) -> HelpedPicture:
        if place.folder is None:
            place.folder = await place.closing.enter_async_context(self._workspace.borrowed())
        upload = place.folder / UPLOAD
        try:
            found = await fetch(self._blobs, keys.upload(job.id), upload)
        except BlobMissingError as error:
            raise CannotHelpError("The job's upload is gone.") from error
        if job.input_sha256 and found != job.input_sha256:
            raise StoreUnavailableError("The upload came back with other bytes.")
        model = await self._identify(job)
        prepared = await self._imaging.prepare(upload, place.folder, expected=job.input_size)
        return HelpedPicture(place.folder, prepared, model)

    async def forget(self, needed: Collection[tuple[str, int]]) -> None:
        """Delete the pictures that nobody uses, but the ``needed`` ones."""
        for key, place in list(self._places.items()):
            if not place.users and key not in needed:
                del self._places[key]
                await place.closing.aclose()
