"""Kept bands: what is done of a job goes to the blobs, so that another worker can go on with it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import zlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

from upscaled import files, serial
from upscaled.blobs.blobs import BlobMissingError, Blobs, delete_below
from upscaled.cluster import keys
from upscaled.cluster.work_queue import Lease
from upscaled.engines.pool import Place
from upscaled.errors import EngineError, NoSpaceError, StoreUnavailableError, UnknownModelError
from upscaled.imaging import PART, Piece, most_result_bytes
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
_BLOCK = 1 << 20


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
    stored: dict[Piece, str] = field(default_factory=dict)
    """The pieces that are among the blobs, with their digests."""
    newest: Checkpoint | None = None
    """To be stored next."""
    task: asyncio.Task[None] | None = None
    ended: bool = False


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
        keeping = self._keeping[lease.job.id] = _Keeping(lease)
        if lease.number == 1:
            return None
        try:
            return await self._bring(keeping)
        except (EngineError, UnknownModelError, OSError) as error:
            # If that is a fault of this machine, the job meets it too, and says so.
            log.warning(
                "job's bands can't be used",
                extra={"job": lease.job.id, "reason": str(error)},
            )
            await self._drop_local(lease.job.id)
            return None

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
            if await self._fetch(job.id, record):
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
            await self._drop_local(job.id)
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

    async def _fetch(self, job_id: str, record: _Record) -> bool:
        """Write the pieces into the job's folder; False if one is missing or damaged.

        Their checksums are compared by the run that goes on.
        """
        folder = self._workspace.folder(job_id)
        for piece, digest in zip(record.checkpoint.written.pieces, record.digests, strict=True):
            try:
                key = keys.band(job_id, digest)
            except ValueError:
                return False
            found, end = hashlib.sha256(), piece.offset
            try:
                async with aclosing(self._blobs.stream(key)) as blocks:
                    async for block in blocks:
                        if end + len(block) > piece.offset + piece.length:
                            return False
                        await files.in_thread(_write, folder / piece.name, end, block)
                        await asyncio.to_thread(found.update, block)
                        end += len(block)
            except BlobMissingError:
                return False
            if end != piece.offset + piece.length or found.hexdigest() != digest:
                log.warning("job's band is damaged", extra={"job": job_id, "blob": key})
                return False
        return True

    async def _drop_local(self, job_id: str) -> None:
        await files.in_thread(_drop, self._workspace.folder(job_id))

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
                    keeping.ended = True
                    log.warning(
                        "job's bands are not kept: the blobs are full",
                        extra={"job": job_id, "reason": str(error)},
                    )
                    await self.delete(job_id)
                except (StoreUnavailableError, OSError) as error:
                    log.warning(
                        "job's band is not kept", extra={"job": job_id, "reason": str(error)}
                    )
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

    async def _store_piece(self, job_id: str, folder: Path, piece: Piece) -> str:
        """Store a piece by its digest, under which there can be no other content."""
        file = self._workspace.new_upload()
        try:
            digest = await files.in_thread(_copy_piece, folder / piece.name, piece, file)
            await self._blobs.put(keys.band(job_id, digest), file)
        finally:
            await self._workspace.discard(file)
        return digest

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


def _write(path: Path, offset: int, content: bytes | memoryview) -> None:
    with open(path, "r+b" if path.exists() else "wb", opener=files.no_follow) as file:
        file.seek(offset)
        file.write(content)


def _copy_piece(path: Path, piece: Piece, target: Path) -> str:
    """Copy a piece of a file to a new one and return its SHA-256.

    Raises:
        OSError: it can't be read or written, or is not what its checksum says.
    """
    digest, check, left = hashlib.sha256(), 0, piece.length
    with open(path, "rb", opener=files.no_follow) as source, target.open("xb") as copy:
        source.seek(piece.offset)
        while left and (block := source.read(min(left, _BLOCK))):
            copy.write(block)
            digest.update(block)
            check = zlib.crc32(block, check)
            left -= len(block)
    if left or check != piece.crc32:
        raise OSError(f"{path.name} is damaged")
    return digest.hexdigest()


def _drop(folder: Path) -> None:
    for name in (PART, NATIVE):
        with contextlib.suppress(OSError):
            (folder / name).unlink(missing_ok=True)
