"""Band help: a worker that has nothing to do makes bands of the pictures of other workers."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from upscaled import files
from upscaled.blobs.blobs import BlobMissingError, Blobs, fetch
from upscaled.cluster import keys, offered_bands
from upscaled.cluster.lending import sha256_around
from upscaled.cluster.offered_bands import Claim
from upscaled.engines.engine import UpscaleTask
from upscaled.engines.pool import EnginePool, Place, Slot
from upscaled.errors import EngineError, StoreUnavailableError, UpscaledError
from upscaled.imaging import Imaging, Prepared
from upscaled.jobs.job import Job
from upscaled.jobs.postgres_database import Database
from upscaled.jobs.workspace import UPLOAD, Workspace
from upscaled.models.catalog import ModelCatalog
from upscaled.pictures import RawImage
from upscaled.pipeline import checkpoint
from upscaled.pipeline.pipeline import Pipeline
from upscaled.pipeline.result import IdentifiedModel
from upscaled.service.background import Tasks

log = logging.getLogger(__name__)

_REFUSED = 256
"""Jobs that this worker can't help with; the oldest is tried again first."""
_PATIENCE_SECONDS = 2.0
_BLOCK = 1 << 20


class CannotHelpError(UpscaledError):
    """A band can't be made here as it would be where its job is."""


@dataclass(eq=False)
class _Picture:
    """A picture of another worker, decoded here too."""

    closing: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while it is fetched and decoded."""
    folder: Path | None = None
    prepared: Prepared | None = None
    model: IdentifiedModel | None = None
    users: int = 0


@dataclass(frozen=True)
class _Made:
    """A band that is made and checked."""

    native: RawImage
    seconds: float


@dataclass(eq=False)
class _Making:
    """A band that is being made."""

    place: Place
    task: asyncio.Task[None]
    ending: bool = False
    """It is being recorded as done."""


class BandHelp:
    """Makes bands of other workers' pictures, each on a device for which no job waits.

    A band is claimed, made, compared with its source and stored; the worker that has the job brings
    it from there. Whatever fails here, that worker does the band itself.

    Args:
        database: where the offers are.
        blobs: where uploads are, and where the rows go.
        workspace: the worker's own.
        imaging: decodes and compares.
        models: the installed models.
        worker: returns the worker's number.
        lease_seconds: how long a worker may be silent.
        on_end: called when a device is idle again.
    """

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        workspace: Workspace,
        imaging: Imaging,
        models: ModelCatalog,
        *,
        worker: Callable[[], int],
        lease_seconds: float,
        on_end: Callable[[], None],
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._workspace = workspace
        self._imaging = imaging
        self._models = models
        self._worker = worker
        self._lease_seconds = lease_seconds
        self._on_end = on_end
        self._pipeline: Pipeline | None = None
        self._pool: EnginePool | None = None
        self._pixel_keys: Mapping[Place, str] = {}
        self._making: dict[tuple[str, int, int], _Making] = {}
        self._pictures: dict[tuple[str, int], _Picture] = {}
        self._refused: OrderedDict[str, None] = OrderedDict()
        self._claiming = False
        self._stopped = False
        self._tasks = Tasks()

    def open(self, pipeline: Pipeline, pool: EnginePool, pixel_keys: Mapping[Place, str]) -> None:
        """Begin to help.

        Args:
            pipeline: knows the networks.
            pool: has the slots.
            pixel_keys: those of its places.
        """
        self._pipeline, self._pool, self._pixel_keys = pipeline, pool, pixel_keys

    @property
    def jobs(self) -> tuple[str, ...]:
        """The ids of the jobs that this worker helps with."""
        return tuple(sorted({job_id for job_id, _, _ in self._making}))

    async def look(self) -> None:
        """Begin to make a band on each idle device; called when no job waits.

        Raises:
            StoreUnavailableError: the database does not answer.
        """
        for place, pixel_key in self._pixel_keys.items():
            if not self._is_free(place):
                continue
            claim = await self._claim(pixel_key)
            if claim is None:
                continue
            if self._stopped:
                await self._release(claim)
            elif claim.key not in self._making:  # else the earlier claim of the band counts again
                task = asyncio.create_task(self._help(claim, place), name=f"band-{claim.job.id}")
                self._making[claim.key] = _Making(place, task)
        await self._forget_pictures()

    def _is_free(self, place: Place) -> bool:
        return (
            not self._stopped
            and self._pool is not None
            and self._pool.is_idle(place)
            and all(one.place != place for one in self._making.values())
        )

    async def _claim(self, pixel_key: str) -> Claim | None:
        worker, models = self._worker(), [model.name for model in self._models.models]
        self._claiming = True
        try:
            return await self._database.run(
                lambda c: offered_bands.claim(
                    c, worker, pixel_key, models,
                    without=tuple(self._refused), lease_seconds=self._lease_seconds,
                ),
                patience=_PATIENCE_SECONDS,
            )  # fmt: skip
        finally:
            self._claiming = False

    async def check(self) -> None:
        """Stop making bands whose claim no longer counts: their job ended, or we were too slow.

        Raises:
            StoreUnavailableError: the database does not answer.
        """
        mine, claiming, worker = set(self._making), self._claiming, self._worker()
        found: set[tuple[str, int, int]] = set()
        if mine:
            found = await self._database.run(
                lambda c: offered_bands.claims_of(c, worker), patience=_PATIENCE_SECONDS
            )
        for key in mine - found:
            if key in self._making and not self._making[key].ending:
                self._making[key].task.cancel()
        if not claiming and not self._claiming:
            for key in found - set(self._making):  # a claim whose answer was lost, or a late end
                await self._database.run(lambda c, key=key: offered_bands.release(c, worker, key))  # type: ignore[misc]
        await self._forget_pictures()

    async def stop(self) -> None:
        """Make no more bands; others may do those that are being made."""
        self._stopped = True
        making = list(self._making.values())
        for one in making:
            if not one.ending:
                one.task.cancel()
        if making:
            await asyncio.wait([one.task for one in making])
        await self._tasks.ended()
        await self._forget_pictures()

    # --- one band -----------------------------------------------------------------------------

    async def _help(self, claim: Claim, place: Place) -> None:
        """Make a claimed band on an idle device."""
        facts = {"job": claim.job.id, "rows": claim.rows, "device": place.device.id}
        done = False
        try:
            async with self._picture(claim) as picture:
                made = await self._make(claim, place, picture)
                if made is not None:
                    done = await self._hand_in(claim, made)
            log.info("a band is made" if done else "a band is not needed", extra=facts)
        except (UpscaledError, OSError) as error:
            self._refused[claim.job.id] = None
            if len(self._refused) > _REFUSED:
                self._refused.popitem(last=False)
            log.warning("can't help with a picture", extra={**facts, "reason": str(error)})
        except asyncio.CancelledError:
            log.info("a band is no longer needed", extra=facts)
        except Exception:
            self._refused[claim.job.id] = None
            log.exception("can't help with a picture", extra=facts)
        finally:
            del self._making[claim.key]
            if not done:
                self._tasks.start(self._release(claim), f"release-{claim.job.id}")
            self._on_end()

    @contextlib.asynccontextmanager
    async def _picture(self, claim: Claim) -> AsyncIterator[_Picture]:
        """Hold the decoded picture of a claim for the length of the block."""
        picture = self._pictures.setdefault(claim.key[:2], _Picture())
        picture.users += 1
        try:
            async with picture.lock:
                if picture.prepared is None:
                    await self._prepare(claim.job, picture)
            yield picture
        finally:
            picture.users -= 1

    async def _prepare(self, job: Job, picture: _Picture) -> None:
        """Fetch and decode a job's upload.

        Raises:
            UpscaledError: that is not possible.
            OSError: the disk is full or broken.
        """
        assert self._pipeline is not None  # noqa: S101 - it was opened
        if picture.folder is None:
            picture.folder = await picture.closing.enter_async_context(self._workspace.borrowed())
        upload = picture.folder / UPLOAD
        try:
            found = await fetch(self._blobs, keys.upload(job.id), upload)
        except BlobMissingError as error:
            raise CannotHelpError("The job's upload is gone.") from error
        if job.input_sha256 and found != job.input_sha256:
            raise StoreUnavailableError("The upload came back with other bytes.")
        picture.model = await self._pipeline.identify(job)
        picture.prepared = await self._imaging.prepare(
            upload, picture.folder, expected=job.input_size
        )

    async def _make(self, claim: Claim, place: Place, picture: _Picture) -> _Made | None:
        """Make the rows of a band and compare them with their source; None if a job has the device.

        Raises:
            UpscaledError: they can't be made here, or not with the same bytes.
        """
        prepared, model, folder = picture.prepared, picture.model, picture.folder
        assert prepared and model and folder and self._pool  # noqa: S101 - it is prepared
        scale, (top, bottom) = model.files.native_scale, claim.rows
        work = checkpoint.work_key(model.param_sha256, model.bin_sha256, scale, grey=prepared.grey)
        size = prepared.source.size
        if work != claim.recipe.work or not 0 <= top < bottom <= size.height:
            raise CannotHelpError("This worker has another network or version.")
        if await asyncio.to_thread(sha256_around, prepared.source, claim.rows) != (
            claim.recipe.source_sha256
        ):
            raise CannotHelpError("The picture is decoded to other bytes here.")
        native = RawImage(folder / f"native-{top}", size.times(scale))
        task = UpscaleTask(
            prepared.source, native, model.files, top, bottom,
            tile_size=claim.recipe.tile_size, tta=claim.recipe.tta,
            workdir=folder, method=claim.recipe.method,
        )  # fmt: skip
        with self._pool.idle_slot(place) as slot:
            if slot is None:
                return None
            log.info("makes a band of another worker's picture", extra={"job": claim.job.id})
            seconds = await _upscale(slot, task)
        await self._imaging.check(prepared.source, native, top, bottom)
        return _Made(native, seconds)

    async def _hand_in(self, claim: Claim, made: _Made) -> bool:
        """Store the rows of a band, then record that it is done; False if nobody waits for it.

        Raises:
            StoreUnavailableError: blobs or database don't answer.
        """
        file = self._workspace.new_upload()
        native = made.native
        try:
            row_bytes = native.row_bytes * (native.size.height // claim.job.input_size.height)
            start, stop = (row * row_bytes for row in claim.rows)
            sha256 = await files.in_thread(_move_rows, native.path, start, stop, file)
            key = keys.helped_rows(
                claim.job.id, claim.lease_number, claim.worker, claim.rows[0], sha256
            )
            await self._blobs.put(key, file)
        finally:
            await self._workspace.discard(file)
        recorded = False
        self._making[claim.key].ending = True
        try:
            recorded = await self._database.run(
                lambda c: offered_bands.complete(c, claim, sha256, made.seconds),
                patience=_PATIENCE_SECONDS,
            )
        finally:
            if not recorded:
                with contextlib.suppress(StoreUnavailableError):  # else the clean-up does it
                    await self._blobs.delete(key)
        return recorded

    # --- ending -------------------------------------------------------------------------------

    async def _release(self, claim: Claim) -> None:
        await self._database.run(
            lambda c: offered_bands.release(c, claim.worker, claim.key),
            patience=_PATIENCE_SECONDS,
        )

    async def _forget_pictures(self) -> None:
        """Delete the pictures of which no band is being made."""
        needed = {key[:2] for key in self._making}
        for key, picture in list(self._pictures.items()):
            if not picture.users and key not in needed:
                del self._pictures[key]
                await picture.closing.aclose()


async def _upscale(slot: Slot, task: UpscaleTask) -> float:
    """Let an engine make the rows of a task; return the engine time.

    Raises:
        EngineError: it can't.
    """
    rows = slot.engine.max_rows(task.source.size.width, task.model.native_scale)
    if rows < task.bottom - task.top:
        raise CannotHelpError("The picture is too wide for the engine here.")
    await files.in_thread(_make_empty, task.target)
    try:
        outcome = await slot.engine.upscale(task, lambda _: None)
    except EngineError:
        await slot.engine.reset()
        raise
    if outcome.tile_size not in {0, task.tile_size}:
        raise CannotHelpError("The engine here uses other tiles.")
    return outcome.seconds


def _make_empty(raw: RawImage) -> None:
    """Make a file of its length that takes no room: only the rows of a band are written."""
    with open(raw.path, "wb", opener=files.no_follow) as file:
        file.truncate(raw.total_bytes)


def _move_rows(path: Path, start: int, stop: int, target: Path) -> str:
    """Copy a part of a file to a new one, delete the file, and return the part's SHA-256.

    Raises:
        OSError: it can't be read or written.
    """
    found, left = hashlib.sha256(), stop - start
    with open(path, "rb", opener=files.no_follow) as source, target.open("xb") as copy:
        source.seek(start)
        while left and (block := source.read(min(left, _BLOCK))):
            copy.write(block)
            found.update(block)
            left -= len(block)
    path.unlink()
    if left:
        raise OSError(f"{path.name} is too short")
    return found.hexdigest()
