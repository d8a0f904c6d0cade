"""Lending: a worker lets others do bands of its large picture, and brings what they have done."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping

import psycopg

from upscaled import files
from upscaled.blobs.blobs import Blobs, delete_below, fetch
from upscaled.cluster import handed_in, keys, offered_bands
from upscaled.cluster.handed_in import NotHandedInError
from upscaled.cluster.members import Member
from upscaled.cluster.offered_bands import BandRecipe, Offer, OfferState
from upscaled.cluster.work_queue import Lease
from upscaled.engines.engine import PADDING
from upscaled.engines.pool import Place
from upscaled.errors import NoSpaceError, StoreUnavailableError, UpscaledError
from upscaled.imaging import Band, BandRows, EncodedBody
from upscaled.jobs.postgres_database import Database
from upscaled.pictures import RawImage
from upscaled.pipeline.open_bands import Helper, OpenBands, Rows, SharedPicture
from upscaled.service.background import Tasks

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.3
"""How often a worker looks what has become of its offers, while there are any."""
_UNWANTED_SECONDS = 10.0
"""After which an offer that nobody claims is taken back."""
_PAUSE_SECONDS = 60.0
"""How long a picture is not offered again after that, and after a band that was damaged."""
_PATIENCE_SECONDS = 2.0
_BLOCK = 1 << 20
_MOST_SECONDS = 1e6


class Lending:
    """The other workers of a cluster, as one of them asks for their help.

    Args:
        database: where offers are.
        blobs: where bands are that others have made.
        others: returns the other workers that are running.
        lease_of: returns the lease under which this worker has a job; None: it has none.
        lease_seconds: how long a worker may be silent.
    """

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        others: Callable[[], Iterable[Member]],
        lease_of: Callable[[str], Lease | None],
        lease_seconds: float,
    ) -> None:
        self.database = database
        self.blobs = blobs
        self.lease_seconds = lease_seconds
        self._others = others
        self._lease_of = lease_of
        self.pixel_keys: Mapping[Place, str] = {}
        """Those of this worker's places; set before the first job begins."""
        self.lent: dict[tuple[str, int], Rows] = {}
        """The bands that others may do or do, by job and first row."""
        self.tasks = Tasks()

    def can_help(self, job_id: str, model_name: str, place: Place) -> bool:
        """Tell whether any worker has the model, and a device that makes the bytes of ``place``."""
        key = self.pixel_keys.get(place)
        return self._lease_of(job_id) is not None and any(
            key in other.pixel_keys and model_name in other.models for other in self._others()
        )

    def helper(self, picture: SharedPicture) -> Helper:
        """Return the helper that has them do bands of a picture."""
        lease = self._lease_of(picture.job_id)
        number = lease.number if lease is not None else 0  # no lease has it: nothing is offered
        return _PictureLending(self, picture, number, self.pixel_keys[picture.place])

    def idle_devices(self, model_name: str, pixel_key: str) -> int:
        """Return how many devices of other workers could help with a picture now."""
        return sum(
            other.pixel_keys.count(pixel_key)
            for other in self._others()
            if not other.jobs and other.state == "ok" and model_name in other.models
        )

    async def ended(self) -> None:
        """Wait until the offers of pictures that are done are withdrawn."""
        await self.tasks.ended()


class _PictureLending:
    """Has other workers do bands of one picture: a `Helper`."""

    def __init__(
        self, lending: Lending, picture: SharedPicture, lease_number: int, pixel_key: str
    ) -> None:
        self._lending = lending
        self._picture = picture
        self._number = lease_number
        self._key = pixel_key
        self._out: dict[Rows, float] = {}
        """The bands that are offered, and since when."""
        self._quiet_until = 0.0
        self._has_offered = False

    async def help(self, bands: OpenBands) -> None:
        """Offer bands, and bring those that are done, until cancelled."""
        try:
            while True:
                try:
                    await self._look(bands)
                    await self._offer(bands)
                except (StoreUnavailableError, NoSpaceError, psycopg.Error) as error:
                    # Without the database nobody knows who does what, so this worker does it all.
                    self._log("others can't help with a picture", reason=str(error))
                    self._take_all_back(bands)
                    self._quiet_until = time.monotonic() + _PAUSE_SECONDS
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            self._take_all_back(bands)
            if self._has_offered:
                name = f"withdraw-{self._picture.job_id}"
                self._lending.tasks.start(self._clear(), name)

    # --- offering -----------------------------------------------------------------------------

    async def _offer(self, bands: OpenBands) -> None:
        """Offer a band for each device that is idle; this worker's own has one already."""
        picture, now = self._picture, time.monotonic()
        if bands.idle_since is not None or now < self._quiet_until:
            return
        idle = self._lending.idle_devices(picture.model_name, self._key)
        count = min(idle - len(self._out), bands.waiting)
        if count <= 0:
            return
        taken = [bands.take() for _ in range(count)]
        for rows in taken:
            self._note_out(rows, now)
        self._has_offered = True
        offers = [Offer(rows, await self._recipe(rows)) for rows in taken]
        made = await self._lending.database.run(
            lambda c: offered_bands.offer(
                c, picture.job_id, self._number, self._key, picture.model_name, offers
            ),
            patience=_PATIENCE_SECONDS,
        )
        if not made:
            self._take_all_back(bands)
            self._quiet_until = float("inf")  # the job is another worker's now

    async def _recipe(self, rows: Rows) -> BandRecipe:
        whole = self._picture.whole
        return BandRecipe(
            self._picture.work,
            await asyncio.to_thread(sha256_around, whole.source, rows),
            whole.tile_size,
            whole.tta,
            whole.method,
        )

    # --- what has become of them --------------------------------------------------------------

    async def _look(self, bands: OpenBands) -> None:
        if not self._out:
            return
        job_id, number, lending = self._picture.job_id, self._number, self._lending
        found = await lending.database.run(
            lambda c: offered_bands.states(c, job_id, number, lending.lease_seconds),
            patience=_PATIENCE_SECONDS,
        )
        over: list[Rows] = []
        for rows in list(self._out):
            state = found.get(rows)
            if state is None:  # the lease or the job has ended
                self._take_back(bands, rows)
            elif state.sha256 is not None:
                await self._bring(bands, rows, state, state.sha256)
            elif self._is_over(bands, rows, state):
                over.append(rows)
        if over:
            await self._withdraw(bands, over)

    def _is_over(self, bands: OpenBands, rows: Rows, state: OfferState) -> bool:
        """Tell whether this worker should do a band itself that it has offered."""
        now = time.monotonic()
        if state.lost:
            self._log("a worker was lost that did a band", rows=rows)
            return True
        if bands.idle_since is not None:
            # A worker that is slow costs no more than what the band takes here.
            return state.worker is None or now - bands.idle_since > bands.slowest
        if state.worker is None and now - self._out[rows] > _UNWANTED_SECONDS:
            self._quiet_until = now + _PAUSE_SECONDS
            return True
        return False

    async def _withdraw(self, bands: OpenBands, over: list[Rows]) -> None:
        job_id, number, tops = self._picture.job_id, self._number, [top for top, _ in over]
        withdrawn = await self._lending.database.run(
            lambda c: offered_bands.withdraw(c, job_id, number, tops, done=False),
            patience=_PATIENCE_SECONDS,
        )
        for rows in over:
            if rows[0] in withdrawn:  # else it was done at this moment
                self._take_back(bands, rows)

    async def _bring(self, bands: OpenBands, rows: Rows, state: OfferState, sha256: str) -> None:
        """Bring the rows of a band that another worker says to have done."""
        job_id, number, blobs = self._picture.job_id, self._number, self._lending.blobs
        body: EncodedBody | None = None
        try:
            key = keys.helped_band(job_id, number, state.worker or 0, rows[0], sha256)
            body = await self._fetch(key, rows, sha256)
            good = True
        except (ValueError, NotHandedInError, UpscaledError, OSError) as error:
            self._log(
                "another worker's band is not used",
                rows=rows,
                worker=state.worker,
                reason=str(error),
            )
            good = False
        if good:
            self._note_in(rows)
            seconds = state.seconds if 0 < state.seconds < _MOST_SECONDS else 0.0
            self._picture.on_done(rows, seconds, body)
            bands.finish(rows)
            self._log(
                "another worker did a band",
                logging.INFO,
                rows=rows,
                worker=state.worker,
                encoded=body is not None,
            )
        else:
            self._quiet_until = time.monotonic() + _PAUSE_SECONDS
            self._take_back(bands, rows)
        await self._lending.database.run(
            lambda c: offered_bands.withdraw(c, job_id, number, [rows[0]], done=True),
            patience=_PATIENCE_SECONDS,
        )
        if good:
            await blobs.delete(key)

    async def _fetch(self, key: str, rows: Rows, sha256: str) -> EncodedBody | None:
        """Bring what was handed in of a band: the enlarged rows in their place; its strips, if it
        has any, in the file that is returned.

        Damaged rows stay there until the band is done again: nobody reads a band that is not.

        Raises:
            NotHandedInError: it is damaged, or something else.
            BlobMissingError: it is not there.
            StoreUnavailableError: the blobs don't answer.
            OSError: the disk is full or broken.
        """
        whole, options = self._picture.whole, self._picture.options
        own = BandRows.of(Band(*rows), whole.source.size, whole.target.size, options)
        path = whole.target.path.with_name(f"helped-{rows[0]}")
        body: EncodedBody | None = None
        try:
            blobs, most = self._lending.blobs, handed_in.most_bytes(own, whole.target, options.size)
            if (await blobs.head(key)).size > most:
                raise NotHandedInError("it is too long")
            if await fetch(blobs, key, path) != sha256:
                raise NotHandedInError("it has other bytes than were handed in")
            body = await files.in_thread(handed_in.read, path, whole.target, own)
        finally:
            if body is None:
                await asyncio.to_thread(path.unlink, missing_ok=True)
        return body

    # --- ending -------------------------------------------------------------------------------

    def _note_out(self, rows: Rows, now: float) -> None:
        self._out[rows] = now
        self._lending.lent[self._picture.job_id, rows[0]] = rows

    def _note_in(self, rows: Rows) -> None:
        del self._out[rows]
        del self._lending.lent[self._picture.job_id, rows[0]]

    def _take_back(self, bands: OpenBands, rows: Rows) -> None:
        self._note_in(rows)
        bands.give_back(rows)

    def _take_all_back(self, bands: OpenBands) -> None:
        for rows in list(self._out):
            self._take_back(bands, rows)

    async def _clear(self) -> None:
        """Delete offers that are left, and rows that came too late."""
        job_id, number = self._picture.job_id, self._number
        await self._lending.database.run(
            lambda c: offered_bands.withdraw_all(c, job_id, number), patience=_PATIENCE_SECONDS
        )
        await delete_below(self._lending.blobs, keys.helped(job_id, number))

    def _log(self, words: str, level: int = logging.WARNING, **facts: object) -> None:
        log.log(level, words, extra={"job": self._picture.job_id, **facts})


def sha256_around(source: RawImage, rows: Rows) -> str:
    """Return the SHA-256 of the rows of a picture that the network sees for some rows; blocking.

    Raises:
        OSError: they can't be read.
    """
    top, bottom = max(0, rows[0] - PADDING), min(source.size.height, rows[1] + PADDING)
    left = (bottom - top) * source.row_bytes
    found = hashlib.sha256()
    with open(source.path, "rb", opener=files.no_follow) as file:
        file.seek(top * source.row_bytes)
        while left and (block := file.read(min(left, _BLOCK))):
            found.update(block)
            left -= len(block)
    return found.hexdigest()
