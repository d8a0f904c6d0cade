"""Band help: a worker that has nothing to do makes bands of the pictures of other workers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from upscaled import files
from upscaled.blobs.blobs import Blobs
from upscaled.cluster import handed_in, keys, offered_bands
from upscaled.cluster.helped_pictures import CannotHelpError, HelpedPicture, HelpedPictures
from upscaled.cluster.offered_bands import Claim
from upscaled.engines.engine import UpscaleTask
from upscaled.engines.pool import EnginePool, Place, Slot
from upscaled.errors import EngineError, StoreUnavailableError, UpscaledError
from upscaled.imaging import Band, BandRows, EncodedBody, Imaging
from upscaled.jobs.postgres_database import Database
from upscaled.jobs.workspace import Workspace
from upscaled.models.catalog import ModelCatalog
from upscaled.pictures import RawImage
from upscaled.pipeline.pipeline import Pipeline
from upscaled.pipeline.result import finish_options
from upscaled.service.background import Tasks

log = logging.getLogger(__name__)

_REFUSED = 256
"""Jobs that this worker can't help with; the oldest is tried again first."""
_PATIENCE_SECONDS = 2.0


@dataclass(frozen=True)
class _Made:
    """A band that is made and checked."""

    native: RawImage
    rows: BandRows
    body: EncodedBody | None
    """Its strips of the result; None: its format has none, or the band is too low."""
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

    A band is claimed, made, compared with its source, encoded and stored; the worker that has the
    job brings it from there. Whatever fails here, that worker does the band itself.

    Args:
        database: where the offers are.
        blobs: where uploads are, and where the rows go.
        workspace: the worker's own.
        imaging: decodes, compares and encodes.
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
        self._pool: EnginePool | None = None
        self._pixel_keys: Mapping[Place, str] = {}
        self._making: dict[tuple[str, int, int], _Making] = {}
        self._pictures: HelpedPictures | None = None
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
        self._pool, self._pixel_keys = pool, pixel_keys
        self._pictures = HelpedPictures(
            self._blobs, self._workspace, self._imaging, pipeline.identify
        )

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
        assert self._pictures is not None  # noqa: S101 - it was opened
        try:
            async with self._pictures.held(claim) as picture:
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

    async def _make(self, claim: Claim, place: Place, picture: HelpedPicture) -> _Made | None:
        """Make the rows of a band, compare them with their source and encode those that only this
        band needs; None if a job has the device.

        Raises:
            UpscaledError: they can't be made here, or not with the same bytes.
        """
        assert self._pool is not None  # noqa: S101 - it was opened
        prepared, (top, bottom) = picture.prepared, claim.rows
        native = await picture.native_for(claim)
        task = UpscaleTask(
            prepared.source, native, picture.model.files, top, bottom,
            tile_size=claim.recipe.tile_size, tta=claim.recipe.tta,
            workdir=picture.folder, method=claim.recipe.method,
        )  # fmt: skip
        with self._pool.idle_slot(place) as slot:
            if slot is None:
                return None
            log.info("makes a band of another worker's picture", extra={"job": claim.job.id})
            seconds = await _upscale(slot, task)
        options, band = finish_options(claim.job.request), Band(top, bottom)
        rows = BandRows.of(band, prepared.source.size, native.size, options)
        if rows.body[0] == rows.body[1]:
            await self._imaging.check(prepared.source, native, top, bottom)
            return _Made(native, rows, None, seconds)
        body = await self._imaging.encode(prepared, native, picture.folder, options, band)
        return _Made(native, rows, body, seconds)

    async def _hand_in(self, claim: Claim, made: _Made) -> bool:
        """Store a band, then record that it is done; False if nobody waits for it.

        Raises:
            StoreUnavailableError: blobs or database don't answer.
        """
        file = self._workspace.new_upload()
        try:
            sha256 = await files.in_thread(handed_in.write, file, made.native, made.rows, made.body)
            await self._workspace.discard(made.native.path)
            if made.body is not None:
                await self._workspace.discard(made.body.path)
            key = keys.helped_band(
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

    async def _forget_pictures(self) -> None:
        """Delete the pictures of which no band is being made."""
        if self._pictures is not None:
            await self._pictures.forget({key[:2] for key in self._making})

    async def _release(self, claim: Claim) -> None:
        await self._database.run(
            lambda c: offered_bands.release(c, claim.worker, claim.key),
            patience=_PATIENCE_SECONDS,
        )


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
