"""`Imaging`: the server's side of the imaging processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from upscaled.errors import NotAPictureError, UnusablePictureError, UpscaledError
from upscaled.formats import INPUT_NAMES
from upscaled.imaging import protocol, replies
from upscaled.imaging.fair_places import PlaceKind
from upscaled.imaging.prepared import Prepared, Probe
from upscaled.imaging.result import (
    NOTHING_WRITTEN,
    Band,
    EncodedBody,
    FinishOptions,
    ResultProgress,
)
from upscaled.imaging.sandbox.sandbox import Confinement
from upscaled.imaging.verify.thresholds import TRUSTED_LIMIT
from upscaled.imaging.view.box import Box
from upscaled.imaging.worker_pool import WorkerPool
from upscaled.pictures import RawImage, Size

DEFAULT_MEMORY_MB = 4096
"""Default address space of one imaging process in MiB."""
_CPU_SECONDS = 60
_CPU_SECONDS_PER_PIXEL = 1e-6
"""Ten times what writing a PNG pixel takes on a slow core."""
_LOOK_SECONDS = 2
"""Processor time for reading an upload, which normally takes a few milliseconds."""
_LOOK_PIXELS = 1 << 20
"""Uploads up to this many pixels are decoded on arrival, within that time."""
_SMALL_PIXELS = 1 << 20
"""Results up to this many pixels are written faster than a process starts."""
_MOST_THREADS = 4
"""Threads that write one result; with more, the disk limits the speed."""


class Imaging:
    """Decodes uploads and writes results in a pool of resident, confined processes.

    Their requests share the processes fairly: see `FairPlaces`.

    Args:
        workers: how many processes may work for jobs, or read uploads, at the same time. There
            is one more, so that neither waits for the other. Each is started when it is first
            needed.
        formats: which of `formats.INPUT_NAMES` are accepted.
        max_pixels: the largest picture that is accepted.
        memory_limit_mb: address space of one process in MiB.
        cpu_seconds: processor time for decoding one picture; one that takes longer is refused.
    """

    def __init__(
        self,
        *,
        workers: int = 1,
        formats: Collection[str] = INPUT_NAMES,
        max_pixels: int,
        memory_limit_mb: int = DEFAULT_MEMORY_MB,
        cpu_seconds: int = _CPU_SECONDS,
    ) -> None:
        settings = {
            "formats": sorted(formats),
            "max_pixels": max_pixels,
            "memory_limit_mb": memory_limit_mb,
            "threads": min(_MOST_THREADS, os.cpu_count() or 1),
        }
        self._formats = frozenset(formats)
        self._max_pixels = max_pixels
        self._cpu_seconds = cpu_seconds
        self._pool = WorkerPool(workers + 1, settings, cpu_seconds)

    async def warm(self) -> Confinement:
        """Start one process so that the first picture need not wait; return its confinement.

        Raises:
            EngineError: no such process can be started, or it can be confined less than before.
        """
        return await self._pool.warm()

    async def probe(self, upload: Path, *, caller: str = "") -> Probe:
        """Read the header of ``upload``.

        Args:
            upload: the picture.
            caller: whose it is; callers take turns.

        Raises:
            NotAPictureError: it is of no format that is taken.
            UnusablePictureError: broken, animated, of several pages, or of too many pixels; or
                its header takes more time than one may.
        """
        request = protocol.ProbeRequest(upload=_absolute(upload), cpu_seconds=_LOOK_SECONDS)
        reply = await self._pool.request(request, protocol.ProbeReply, PlaceKind.LOOK, caller)
        return replies.probe_of(reply, self._formats, self._max_pixels)

    async def probe_all(self, uploads: Sequence[Path]) -> list[Probe | UpscaledError]:
        """Read the headers of several pictures in one process, far quicker than each by `probe`.

        They must all be of one user: a picture that takes its process over could lie about the
        others. It can't do more, since each job reads its picture again.

        Returns:
            For each picture its header, or what `probe` raises.
        """
        request = protocol.ProbesRequest(
            uploads=tuple(map(_absolute, uploads)), cpu_seconds=_LOOK_SECONDS
        )
        found: list[Probe | None] = [None] * len(uploads)
        if len(uploads) > 1:
            # Where it fails, one of them broke the process, or keeps it busy.
            with contextlib.suppress(UpscaledError):
                reply = await self._pool.request(request, protocol.ProbesReply, PlaceKind.LOOK)
                found = replies.probes_of(reply, len(uploads), self._formats, self._max_pixels)
        probes: list[Probe | UpscaledError] = []
        for upload, probe in zip(uploads, found, strict=True):
            try:
                probes.append(probe or await self.probe(upload))
            except UpscaledError as error:
                probes.append(error)
        return probes

    async def receive(
        self, upload: Path, workdir: Path, *, caller: str = ""
    ) -> tuple[Probe, Prepared | None]:
        """Read the header of ``upload``; also decode it into ``workdir`` if that is quick.

        Starting a process takes longer than decoding a thumbnail, so both are done in one. For
        large pictures, decoding errors are left to `prepare`.

        Args:
            upload: the picture.
            workdir: the job's folder.
            caller: whose it is; callers take turns.

        Raises:
            NotAPictureError: it is of no format that is taken.
            UnusablePictureError: as `probe`; or a small picture cannot be decoded.
        """
        request = protocol.ProbeRequest(
            upload=_absolute(upload),
            workdir=_absolute(workdir),
            max_pixels=_LOOK_PIXELS,
            cpu_seconds=_LOOK_SECONDS,
        )
        try:
            reply = await self._pool.request(request, protocol.ProbeReply, PlaceKind.LOOK, caller)
        except NotAPictureError:
            raise
        except UpscaledError:  # a broken header, or a picture made to keep its decoder busy
            return await self.probe(upload, caller=caller), None
        probe = replies.probe_of(reply, self._formats, self._max_pixels)
        if reply.broken:
            raise UnusablePictureError(reply.broken)
        if reply.prepared is None:
            return probe, None
        return probe, await self._prepared(reply.prepared, workdir, probe.size)

    async def prepare(
        self, upload: Path, workdir: Path, *, expected: Size | None = None
    ) -> Prepared:
        """Decode ``upload`` into files in ``workdir``.

        Args:
            upload: the picture.
            workdir: the job's folder.
            expected: the size that `probe` found.

        Raises:
            NotAPictureError: it is of no format that is taken.
            UnusablePictureError: it does not decode completely, only with more time or memory
                than a picture may use, or to another size.
            NoSpaceError: the disk is full.
        """
        request = protocol.PrepareRequest(
            upload=_absolute(upload), workdir=_absolute(workdir), cpu_seconds=self._cpu_seconds
        )
        reply = await self._pool.request(request, protocol.PrepareReply, PlaceKind.JOB)
        return await self._prepared(reply.prepared, workdir, expected)

    async def check(
        self,
        source: RawImage,
        native: RawImage,
        top: int,
        bottom: int,
        *,
        limit: float = TRUSTED_LIMIT,
    ) -> float:
        """Compare rows of ``source`` with the same area of ``native``; return the score.

        Args:
            source: the prepared picture.
            native: what an engine made of it.
            top: the first row of the source to compare.
            bottom: the row after the last.
            limit: how much they may differ, see `upscaled.imaging.verify.thresholds`.

        Raises:
            UnlikeError: it is not the enlarged source.
        """
        request = protocol.CheckRequest(
            source=source,
            native=native,
            band=Band(top, bottom, limit),
            cpu_seconds=self._writing_seconds(native.size.pixels),
        )
        return (await self._pool.request(request, protocol.CheckReply, PlaceKind.LOOK)).score

    async def encode(
        self,
        prepared: Prepared,
        native: RawImage,
        workdir: Path,
        options: FinishOptions,
        band: Band,
    ) -> EncodedBody:
        """Verify a band of ``native`` and encode its body into a new file in ``workdir``.

        Args:
            prepared: the picture.
            native: its enlargement; only the band's rows are read.
            workdir: a folder.
            options: how to write the result; its format is written in strips.
            band: the band.

        Raises:
            UnlikeError: the band is not the enlarged source.
            EngineError: it could not be encoded.
            NoSpaceError: there is not enough memory or disk space.
        """
        request = protocol.EncodeRequest(
            prepared=prepared,
            native=native,
            workdir=_absolute(workdir),
            options=options,
            band=band,
            cpu_seconds=self._writing_seconds(max(native.size.pixels, options.size.pixels)),
        )
        reply = await self._pool.request(request, protocol.EncodeReply, PlaceKind.LOOK)
        return await asyncio.to_thread(replies.body_of, reply, request)

    async def finish(
        self,
        prepared: Prepared,
        native: RawImage,
        workdir: Path,
        options: FinishOptions,
        band: Band,
        written: ResultProgress = NOTHING_WRITTEN,
        body: EncodedBody | None = None,
    ) -> ResultProgress:
        """Verify a band of ``native`` and write the rows it adds to the result.

        After the last band, the file `PART` in ``workdir`` is complete and was read back.

        Args:
            prepared: the picture.
            native: its enlargement, complete up to the band's last row.
            workdir: the job's folder.
            options: how to write the result.
            band: begins where the previous one ended.
            written: the progress after the previous band.
            body: the band's body, if `encode` has made it, here or elsewhere. Then of the band's
                rows ``native`` has only those around it.

        Raises:
            UnlikeError: the band is not the enlarged source.
            EngineError: the result could not be written, or not as it was meant.
            NoSpaceError: there is not enough memory or disk space.
        """
        pixels = max(native.size.pixels, options.size.pixels)
        request = protocol.FinishRequest(
            prepared=prepared,
            native=native,
            workdir=_absolute(workdir),
            options=options,
            band=band,
            written=written,
            body=body,
            # No metadata: of the upload, only decoded pixels are used.
            small=prepared.sidecar is None and body is None and pixels <= _SMALL_PIXELS,
            cpu_seconds=self._writing_seconds(pixels),
        )
        reply = await self._pool.request(request, protocol.FinishReply, PlaceKind.JOB)
        return await asyncio.to_thread(replies.written_of, reply, request)

    async def view(
        self, picture: Path, workdir: Path, size: Size, *, tiles: bool, most_bytes: int, caller: str
    ) -> Path:
        """Write a thumbnail of a picture, or its tiles (`view.tile_file`).

        Args:
            picture: an upload or a result.
            workdir: an empty folder.
            size: the picture's.
            tiles: write tiles, else a thumbnail.
            most_bytes: longest file that may be written.
            caller: who wants it; callers take turns.

        Returns:
            The file.

        Raises:
            UnusablePictureError: it can't be decoded, or has another size.
            NoSpaceError: the disk is full, or the file would be longer than ``most_bytes``.
        """
        request = protocol.ViewRequest(
            picture=_absolute(picture),
            workdir=_absolute(workdir),
            most_bytes=most_bytes,
            tiles=tiles,
            cpu_seconds=self._writing_seconds(size.pixels),
        )
        reply = await self._pool.request(request, protocol.ViewReply, PlaceKind.LOOK, caller)
        return await asyncio.to_thread(replies.view_of, reply, request, size)

    async def crop(self, upload: Path, workdir: Path, box: Box, *, caller: str) -> Prepared:
        """Decode a part of ``upload`` into files in ``workdir``, in sRGB.

        Raises:
            BadRequestError: the box is too large, or not within the picture.
            NotAPictureError: it is of no format that is taken.
            UnusablePictureError: it does not decode.
            NoSpaceError: the disk is full.
        """
        request = protocol.CropRequest(
            upload=_absolute(upload),
            workdir=_absolute(workdir),
            box=box,
            cpu_seconds=self._cpu_seconds,
        )
        reply = await self._pool.request(request, protocol.PrepareReply, PlaceKind.LOOK, caller)
        if reply.prepared.width * reply.prepared.height > box.most_pixels:
            raise replies.WrongReplyError("a part that is too large")
        return await self._prepared(reply.prepared, workdir, None)

    async def close(self) -> None:
        """End every process after its current request."""
        await self._pool.close()

    def _writing_seconds(self, pixels: int) -> int:
        return self._cpu_seconds + int(pixels * _CPU_SECONDS_PER_PIXEL)

    async def _prepared(
        self, reply: protocol.PreparedReply, workdir: Path, expected: Size | None
    ) -> Prepared:
        folder = _absolute(workdir)
        return await asyncio.to_thread(
            replies.prepared_of, reply, folder, self._max_pixels, expected
        )


def _absolute(path: Path) -> Path:
    return path.absolute()
