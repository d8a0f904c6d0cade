"""Kept bands: what is done of a job goes to the blobs, so that another worker can go on with it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

from upscaled import files, serial
from upscaled.blobs.blobs import BlobMissingError, Blobs, delete_below
from upscaled.cluster import keys
from upscaled.cluster.away_result import AwayResult
from upscaled.cluster.pieces import LostPieceError, bring_piece, copy_piece
from upscaled.cluster.work_queue import Lease
from upscaled.engines.pool import Place
from upscaled.errors import EngineError, NoSpaceError, StoreUnavailableError, UnknownModelError
from upscaled.imaging import PART, Piece, ResultProgress, most_result_bytes
from upscaled.jobs.job import Job
from upscaled.jobs.workspace import Workspace
from upscaled.pipeline import checkpoint
from upscaled.pipeline.checkpoint import NATIVE, Checkpoint
from upscaled.pipeline.result import IdentifiedModel

log = logging.getLogger(__name__)

_MOST_RECORD_BYTES = 64 << 20
"""A record has some hundred bytes for each band."""
_FLUSH_SECONDS = 10.0
"""How long a worker that gives a job back waits until its last band is kept."""


@dataclass(frozen=True)
class _Record:
    """What is done of a job. A format among the blobs: fields may be added but not changed."""

    checkpoint: Checkpoint
    digests: tuple[str, ...]
    """SHA-256 of each piece of the checkpoint, by which its blob is named."""
    pixel_key: str
    """That of the place which made the last band."""


@dataclass(eq=False)
class _Keeping:
    """The bands that are kept under one lease."""

    lease: Lease
    result: AwayResult
    stored: dict[Piece, str] = field(default_factory=dict)
    """The pieces that are among the blobs, with their digests."""
    newest: Checkpoint | None = None
    """To be stored next."""
    task: asyncio.Task[None] | None = None
    ended: bool = False
    trusts: bool = True
    """False: the blobs have lost a piece, so they must not have the only copy of others."""


class KeptBands:
    """Stores the finished bands of the jobs that a worker does, and brings those of other workers.

    A band is stored while the next one is computed. A fault costs work only if the worker is lost,
    so none ends a job.

    Args:
        blobs: the files that all machines share.
        workspace: the worker's own.
        identify: returns the network that does a job's work, see `Pipeline.identify`.
    """

    def __init__(
        self,
        blobs: Blobs,
        workspace: Workspace,
        identify: Callable[[Job], Awaitable[IdentifiedModel]],
    ) -> None:
        self._blobs = blobs
        self._workspace = workspace
        self._identify = identify
        self.pixel_keys: Mapping[Place, str] = {}
        """Those of the worker's places, see `upscaled.engines.pixel_key`; set before the first job
        begins."""
        self._keeping: dict[str, _Keeping] = {}

    # --- going on where another worker ended --------------------------------------------------

    async def begin(self, lease: Lease) -> int | None:
        """Bring the bands of earlier leases into a job's folder, and keep its bands from now on.

        Returns:
            The number of the lease under which the last of them was made; None: there are none.

        Raises:
            StoreUnavailableError: the blobs don't answer.
        """
        keeping = self._keeping[lease.job.id] = _Keeping(lease, self._result_of(lease.job.id))
        if lease.number == 1:
            return None
        try:
            return await self._bring(keeping)
        except (EngineError, UnknownModelError, OSError) as error:
            # If that is a fault of this machine, the job meets it too, and says so.
            facts = {"job": lease.job.id, "reason": str(error)}
            log.warning("job's bands can't be used", extra=facts)
            await self._drop_local(keeping)
            return None

    def _result_of(self, job_id: str) -> AwayResult:
        return AwayResult(self._workspace.folder(job_id) / PART, self._blobs, job_id)

    async def _bring(self, keeping: _Keeping) -> int | None:
        job = keeping.lease.job
        prefix = keys.bands(job.id)
        found = [keys.lease_of(blob.key) async for blob in self._blobs.list(prefix)]
        numbers = sorted((number for number in found if number is not None), reverse=True)
        model = await self._identify(job) if numbers else None
        for number in numbers:
            assert model is not None  # noqa: S101 - the condition above
            record = await self._read(keys.checkpoint(job.id, number))
            if record is None or not self._is_usable(record, job, model):
                continue
            if await self._fetch(keeping, record):
                folder = self._workspace.folder(job.id)
                await checkpoint.save(folder, record.checkpoint)
                written = record.checkpoint.written
                keeping.stored = dict(zip(written.pieces, record.digests, strict=True))
                log.info(
                    "job's bands were brought",
                    extra={"job": job.id, "rows": written.source_rows, "lease": number},
                )
                advanced = written.source_rows > record.checkpoint.began
                return number if advanced else None
            await self._drop_local(keeping)
            keeping.trusts = False
        return None

    async def _read(self, key: str) -> _Record | None:
        """Return a record; None if it is gone or damaged."""
        content = bytearray()
        try:
            async with aclosing(self._blobs.stream(key)) as pieces:
                async for piece in pieces:
                    content += piece
                    if len(content) > _MOST_RECORD_BYTES:
                        return None
        except BlobMissingError:
            return None
        return await asyncio.to_thread(_record_of, bytes(content))

    def _is_usable(self, record: _Record, job: Job, model: IdentifiedModel) -> bool:
        """Tell whether a record is of this work, and its pieces are where they can be.

        What it says is believed no more than what an imaging process replies.
        """
        done = record.checkpoint
        written, native_scale = done.written, model.files.native_scale
        if record.pixel_key not in self.pixel_keys.values():
            return False
        works = [
            checkpoint.work_key(model.param_sha256, model.bin_sha256, native_scale, grey=grey)
            for grey in (False, True)
        ]
        if done.work not in works or written.finished is not None:
            return False
        if not (
            0 < written.source_rows < job.input_size.height
            and 0 <= done.began <= written.source_rows
            and 0 <= written.rows <= job.request.output_size.height
            and len(record.digests) == len(written.pieces)
        ):
            return False
        end = 0
        native_bytes = 3 * job.input_size.times(native_scale).pixels
        for piece in written.pieces:
            if piece.name == PART and piece.offset == end and piece.length >= 0:
                end += piece.length
            elif not (
                piece.name == NATIVE
                and 0 <= piece.offset <= piece.offset + piece.length <= native_bytes
            ):
                return False
        return end == written.length <= most_result_bytes(job.request.output_size)

    async def _fetch(self, keeping: _Keeping, record: _Record) -> bool:
        """Write the pieces into the job's folder; False if one is missing or damaged.

        Pieces of the result stay where they are, if the disk can do without them. The checksums of
        the others are compared by the run that goes on.
        """
        job_id = keeping.lease.job.id
        folder = self._workspace.folder(job_id)
        for piece, digest in zip(record.checkpoint.written.pieces, record.digests, strict=True):
            try:
                if piece.name == PART and keeping.trusts and await keeping.result.may_leave():
                    await keeping.result.take(piece, digest)
                else:
                    await bring_piece(self._blobs, job_id, piece, digest, folder / piece.name)
            except LostPieceError as error:
                log.warning("job's band is damaged", extra={"job": job_id, "reason": str(error)})
                return False
        return True

    async def _drop_local(self, keeping: _Keeping) -> None:
        keeping.result = self._result_of(keeping.lease.job.id)
        await files.in_thread(_drop, self._workspace.folder(keeping.lease.job.id))

    # --- keeping ------------------------------------------------------------------------------

    def note(self, job_id: str, done: Checkpoint) -> None:
        """Store a job's bands so far; returns at once."""
        keeping = self._keeping.get(job_id)
        if keeping is None or keeping.ended or done.place not in self.pixel_keys:
            return
        keeping.newest = done
        if keeping.task is None:
            keeping.task = asyncio.create_task(self._keep(keeping), name=f"keep-{job_id}")

    async def _keep(self, keeping: _Keeping) -> None:
        """Store what is noted; several bands at once if they come faster."""
        job_id = keeping.lease.job.id
        try:
            while (done := keeping.newest) is not None and not keeping.ended:
                keeping.newest = None
                try:
                    await self._store(keeping, done)
                except NoSpaceError as error:  # what room there is, uploads and results need
                    facts = {"job": job_id, "reason": str(error)}
                    log.warning("job's bands are not kept: the blobs are full", extra=facts)
                    await self._make_room(keeping)
                except (StoreUnavailableError, OSError) as error:
                    facts = {"job": job_id, "reason": str(error)}
                    log.warning("job's band is not kept", extra=facts)
        except Exception:  # the job goes on
            log.exception("job's bands can't be kept", extra={"job": job_id})
        finally:
            keeping.task = None

    async def _store(self, keeping: _Keeping, done: Checkpoint) -> None:
        """Store the pieces that are not among the blobs, then the record that names them."""
        lease = keeping.lease
        folder = self._workspace.folder(lease.job.id)
        # Enlarged rows first: their room is given back soon (`upscaled.pipeline.native_rows`).
        for piece in sorted(done.written.pieces, key=lambda piece: piece.name == PART):
            if keeping.ended:
                return
            if piece not in keeping.stored:
                keeping.stored[piece] = await self._store_piece(lease.job.id, folder, piece)
        assert done.place is not None  # noqa: S101 - `note` looked
        digests = tuple(keeping.stored[piece] for piece in done.written.pieces)
        record = _Record(done, digests, self.pixel_keys[done.place])
        file = self._workspace.new_upload()
        try:
            await files.in_thread(_write_record, file, record)
            await self._blobs.put(keys.checkpoint(lease.job.id, lease.number), file)
        finally:
            await self._workspace.discard(file)
        if keeping.trusts:
            await keeping.result.leave(_parts(done.written), keeping.stored)

    async def _store_piece(self, job_id: str, folder: Path, piece: Piece) -> str:
        """Store a piece by its digest, under which there can be no other content."""
        file = self._workspace.new_upload()
        try:
            digest = await files.in_thread(copy_piece, folder / piece.name, piece, file)
            await self._blobs.put(keys.band(job_id, digest), file)
        finally:
            await self._workspace.discard(file)
        return digest

    # --- results that are not on the disk whole: a `Keeper` -----------------------------------

    def away(self, job_id: str) -> Collection[Piece]:
        keeping = self._keeping.get(job_id)
        return () if keeping is None else keeping.result.away

    async def begin_anew(self, job_id: str) -> None:
        keeping = self._keeping.get(job_id)
        if keeping is None:
            return
        keeping.newest = None
        if keeping.task is not None:
            await asyncio.wait([keeping.task])  # it would give back room of the new file
        keeping.result = self._result_of(job_id)

    async def hold(self, job_id: str) -> int:
        keeping = self._keeping.get(job_id)
        return 0 if keeping is None else await keeping.result.hold()

    async def complete(self, job_id: str, written: ResultProgress) -> str:
        keeping = self._keeping.get(job_id)
        if keeping is None:
            raise EngineError("The job is no longer this worker's.")
        try:
            return await keeping.result.complete(_parts(written))
        except OSError as error:
            raise EngineError("The result on disk differs from what was written.") from error

    async def put_result(self, job_id: str, key: str) -> bool:
        """Join a complete result to a blob, if a part of it is not on this disk; else return False.

        Raises:
            LostPieceError: a piece of it is no longer among the blobs, or damaged there.
            NoSpaceError: the blobs are full.
            StoreUnavailableError: they don't answer.
            OSError: the disk is broken.
        """
        keeping = self._keeping.get(job_id)
        if keeping is None or not keeping.result.is_complete:
            return False
        keeping.ended = True
        if keeping.task is not None:  # if the blobs are full, it deletes the pieces
            await asyncio.wait([keeping.task])
        try:
            await self._blobs.put_pieces(key, keeping.result.stream())
        except NoSpaceError:
            await self._make_room(keeping)
            raise
        log.info("job's result is joined among the blobs", extra={"job": job_id})
        return True

    async def _make_room(self, keeping: _Keeping) -> None:
        """Delete a job's bands; what only the blobs have of its result returns to the disk."""
        keeping.ended = True
        try:
            await keeping.result.bring_back()
        except (LostPieceError, StoreUnavailableError, OSError) as error:
            facts = {"job": keeping.lease.job.id, "reason": str(error)}
            log.warning("job's bands stay in full blobs", extra=facts)
        else:
            await self.delete(keeping.lease.job.id)

    # --- ending -------------------------------------------------------------------------------

    async def end(self, lease: Lease, *, flush: bool = False, delete: bool = False) -> None:
        """Keep no more bands of a job; when this returns, nothing is being stored.

        Args:
            lease: under which they were kept.
            flush: first store the last one, unless that takes long.
            delete: delete them, since the job has ended.
        """
        keeping = self._of(lease)
        if keeping is None:
            return
        if flush and keeping.task is not None:
            await asyncio.wait([keeping.task], timeout=_FLUSH_SECONDS)
        keeping.ended = True
        if keeping.task is not None:
            # Not cancelled: a thread or a request under way would store its blob all the same.
            await asyncio.wait([keeping.task])
        if self._of(lease) is keeping:
            del self._keeping[lease.job.id]
        if delete and (keeping.stored or lease.number > 1):
            await self.delete(lease.job.id)

    async def delete(self, job_id: str) -> None:
        """Delete the bands of a job; the clean-up does what can't be done now."""
        try:
            await delete_below(self._blobs, keys.bands(job_id))
        except StoreUnavailableError as error:
            log.warning(
                "job's bands can't be deleted yet", extra={"job": job_id, "reason": str(error)}
            )

    def _of(self, lease: Lease) -> _Keeping | None:
        """Return what is kept under a lease; None also if a later one has begun."""
        keeping = self._keeping.get(lease.job.id)
        return keeping if keeping is not None and keeping.lease.number == lease.number else None


def _parts(written: ResultProgress) -> list[Piece]:
    return [piece for piece in written.pieces if piece.name == PART]


def _write_record(file: Path, record: _Record) -> None:
    content = serial.encode(record)
    file.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)


def _record_of(content: bytes) -> _Record | None:
    digest, _, document = content.partition(b"\n")
    if hashlib.sha256(document).hexdigest().encode() != digest:
        return None
    try:
        return serial.decode(document, _Record)
    except ValueError:
        return None  # of a version that is too old or too new


def _drop(folder: Path) -> None:
    for name in (PART, NATIVE):
        with contextlib.suppress(OSError):
            (folder / name).unlink(missing_ok=True)
