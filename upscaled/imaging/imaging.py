"""`Imaging`: the server's side of the imaging processes."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from upscaled import serial
from upscaled.errors import (
    BadRequestError,
    EngineError,
    NoMemoryError,
    NoSpaceError,
    NotAPictureError,
    ShortageError,
    UnusablePictureError,
    UpscaledError,
    WorkerFailedError,
)
from upscaled.formats import INPUT_NAMES
from upscaled.imaging import messages, replies
from upscaled.imaging.fair_places import FairPlaces, Kind
from upscaled.imaging.messages import Request
from upscaled.imaging.prepared import Prepared, Probe
from upscaled.imaging.result import NOTHING_WRITTEN, Band, FinishOptions, Written
from upscaled.imaging.sandbox.sandbox import Confinement
from upscaled.imaging.verify.thresholds import TRUSTED_LIMIT, UnlikeError
from upscaled.imaging.view.box import Box
from upscaled.pictures import RawImage, Size
from upscaled.workers import deaths
from upscaled.workers.client import WorkerClient
from upscaled.workers.errors import WorkerError, WorkerRefusedError, WorkerShortageError
from upscaled.workers.processes import plain_env

log = logging.getLogger(__name__)

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
_WALL_PER_CPU = 10
"""On a busy machine, a request may take this many times its processor time."""
_MAX_MESSAGE = 1000
"""Longest error message accepted from a process, in characters."""
_UNCONFINED = "unconfined"

_LOST: dict[str, Callable[[str], UpscaledError]] = {
    "killed": NoMemoryError,
    "crashed": UnusablePictureError,
    "died": lambda message: EngineError(message, retryable=False),
}
"""What it means if a request's process ends that way each time."""

_ERRORS: dict[str, type[UpscaledError]] = {
    "bad_request": BadRequestError,
    "not_a_picture": NotAPictureError,
    "unusable": UnusablePictureError,
    "unlike": UnlikeError,
    "engine": EngineError,
    "no_memory": NoMemoryError,
    "no_space": NoSpaceError,
    "shortage": ShortageError,
}

_Reply = TypeVar("_Reply", bound=messages.Reply)
_Value = TypeVar("_Value")


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
        # Thread pools that nobody needs would take the bounded address space.
        env = plain_env(OPENBLAS_NUM_THREADS="1", MALLOC_ARENA_MAX="2")
        self._workers = [
            WorkerClient(
                "upscaled.imaging.worker",
                name="imaging",
                arguments=[serial.encode(settings).decode()],
                env=env,
            )
            for _ in range(workers + 1)
        ]
        self._places = FairPlaces(len(self._workers))
        self._idle = list(self._workers)
        self._required: tuple[str, ...] | None = None
        self._first = asyncio.Lock()

    async def warm(self) -> Confinement:
        """Start one process so that the first picture need not wait; return its confinement.

        From then on, no request runs with weaker confinement than this process had.

        Raises:
            EngineError: no such process can be started, or it can be confined less than before.
        """
        required = self._required or ()
        reply = await self._repeated(
            messages.PingRequest(required=required, cpu_seconds=self._cpu_seconds),
            messages.PingReply,
            Kind.LOOK,
            "",
        )
        if self._required is None:
            self._required = reply.active
        return Confinement(reply.active, reply.lacking)

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
        request = messages.ProbeRequest(upload=_absolute(upload), cpu_seconds=_LOOK_SECONDS)
        reply = await self._request(request, messages.ProbeReply, Kind.LOOK, caller)
        return replies.probe_of(reply, self._formats, self._max_pixels)

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
        request = messages.ProbeRequest(
            upload=_absolute(upload),
            workdir=_absolute(workdir),
            max_pixels=_LOOK_PIXELS,
            cpu_seconds=_LOOK_SECONDS,
        )
        try:
            reply = await self._request(request, messages.ProbeReply, Kind.LOOK, caller)
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
        request = messages.PrepareRequest(
            upload=_absolute(upload), workdir=_absolute(workdir), cpu_seconds=self._cpu_seconds
        )
        reply = await self._request(request, messages.PrepareReply, Kind.JOB)
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
        request = messages.CheckRequest(
            source=source,
            native=native,
            band=Band(top, bottom, limit),
            cpu_seconds=self._writing_seconds(native.size.pixels),
        )
        return (await self._request(request, messages.CheckReply, Kind.LOOK)).score

    async def finish(
        self,
        prepared: Prepared,
        native: RawImage,
        workdir: Path,
        options: FinishOptions,
        band: Band,
        written: Written = NOTHING_WRITTEN,
    ) -> Written:
        """Verify a band of ``native`` and write the rows it adds to the result.

        After the last band, the file `PART` in ``workdir`` is complete and was read back.

        Args:
            prepared: the picture.
            native: its enlargement, complete up to the band's last row.
            workdir: the job's folder.
            options: how to write the result.
            band: begins where the previous one ended.
            written: the progress after the previous band.

        Raises:
            UnlikeError: the band is not the enlarged source.
            EngineError: the result could not be written, or not as it was meant.
            NoSpaceError: there is not enough memory or disk space.
        """
        pixels = max(native.size.pixels, options.size.pixels)
        request = messages.FinishRequest(
            prepared=prepared,
            native=native,
            workdir=_absolute(workdir),
            options=options,
            band=band,
            written=written,
            # No metadata: of the upload, only decoded pixels are used.
            small=prepared.sidecar is None and pixels <= _SMALL_PIXELS,
            cpu_seconds=self._writing_seconds(pixels),
        )
        reply = await self._request(request, messages.FinishReply, Kind.JOB)
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
        request = messages.ViewRequest(
            picture=_absolute(picture),
            workdir=_absolute(workdir),
            most_bytes=most_bytes,
            tiles=tiles,
            cpu_seconds=self._writing_seconds(size.pixels),
        )
        reply = await self._request(request, messages.ViewReply, Kind.LOOK, caller)
        return await asyncio.to_thread(replies.view_of, reply, request, size)

    async def crop(self, upload: Path, workdir: Path, box: Box, *, caller: str) -> Prepared:
        """Decode a part of ``upload`` into files in ``workdir``, in sRGB.

        Raises:
            BadRequestError: the box is too large, or not within the picture.
            NotAPictureError: it is of no format that is taken.
            UnusablePictureError: it does not decode.
            NoSpaceError: the disk is full.
        """
        request = messages.CropRequest(
            upload=_absolute(upload),
            workdir=_absolute(workdir),
            box=box,
            cpu_seconds=self._cpu_seconds,
        )
        reply = await self._request(request, messages.PrepareReply, Kind.LOOK, caller)
        if reply.prepared.width * reply.prepared.height > box.most_pixels:
            raise replies.WrongReplyError("a part that is too large")
        return await self._prepared(reply.prepared, workdir, None)

    async def close(self) -> None:
        """End every process after its current request."""
        await asyncio.gather(*(worker.close() for worker in self._workers))

    def _writing_seconds(self, pixels: int) -> int:
        return self._cpu_seconds + int(pixels * _CPU_SECONDS_PER_PIXEL)

    async def _prepared(
        self, reply: messages.PreparedReply, workdir: Path, expected: Size | None
    ) -> Prepared:
        folder = _absolute(workdir)
        return await asyncio.to_thread(
            replies.prepared_of, reply, folder, self._max_pixels, expected
        )

    async def _request(
        self, request: Request, reply_type: type[_Reply], kind: Kind, caller: str = ""
    ) -> _Reply:
        """Send ``request`` to a free process that is confined like the first one.

        Raises:
            EngineError: no process could do it, or its reply is not a ``reply_type``.
            UpscaledError: the process refused.
        """
        async with self._first:
            if self._required is None:
                await self.warm()
        request = replace(request, required=self._required)
        try:
            return await self._repeated(request, reply_type, kind, caller)
        except _UnconfinedError:
            return await self._repeated(request, reply_type, kind, caller)

    async def _repeated(
        self, request: Request, reply_type: type[_Reply], kind: Kind, caller: str
    ) -> _Reply:
        """Put a request again if its process is killed or crashes, `deaths.TRIES` times in all."""
        first_look = isinstance(request, messages.ProbeRequest) and request.workdir is not None
        for left in reversed(
            range(1 if first_look else deaths.TRIES)
        ):  # `probe` follows a first look
            try:
                return await self._ask(request, reply_type, kind, caller)
            except _LostError as lost:
                if not left:
                    raise lost.meaning from lost
                log.warning(
                    "imaging process lost; its request is repeated",
                    extra={"reason": lost.meaning.message},
                )
            await asyncio.sleep(deaths.PAUSE_SECONDS)
        raise AssertionError("TRIES is positive")

    async def _ask(
        self, request: Request, reply_type: type[_Reply], kind: Kind, caller: str = ""
    ) -> _Reply:
        wall_seconds = request.cpu_seconds * _WALL_PER_CPU
        async with self._worker(kind, caller) as worker:
            try:
                reply = await worker.request(serial.plain(request), timeout=wall_seconds)
                return serial.convert(reply, reply_type)
            except WorkerRefusedError as error:
                if error.kind == _UNCONFINED:
                    await worker.close()  # the next one starts afresh
                    raise _UnconfinedError(_sentence(error.message)) from error
                if error.kind in _LOST:
                    raise _LostError(_LOST[error.kind](_sentence(error.message))) from error
                raise _ERRORS.get(error.kind, EngineError)(_sentence(error.message)) from error
            except msgspec.ValidationError as error:
                raise replies.WrongReplyError(_sentence(str(error))) from error
            except TimeoutError as error:
                raise EngineError(
                    f"The imaging process gave no answer within {wall_seconds} s."
                ) from error
            except WorkerShortageError as error:
                raise ShortageError(f"While a picture was being handled, {error}.") from error
            except WorkerError as error:
                sentence = f"While a picture was being handled, {error}."
                raise _LostError(WorkerFailedError(sentence, retryable=False)) from error

    @asynccontextmanager
    async def _worker(self, kind: Kind, caller: str) -> AsyncIterator[WorkerClient]:
        async with self._places.hold(kind, caller):
            # The worker used last is taken first: its memory is warm, the others need not start.
            worker = self._idle.pop()
            try:
                yield worker
            finally:
                self._idle.append(worker)


class _LostError(UpscaledError):
    """A process ended in the middle of a request; ``meaning`` is the error if it always does."""

    def __init__(self, meaning: UpscaledError) -> None:
        super().__init__(meaning.message)
        self.meaning = meaning


class _UnconfinedError(EngineError):
    """A process could not be confined like the first one, and did no work."""


def _absolute(path: Path) -> Path:
    return path.absolute()


def _sentence(text: str) -> str:
    """Return a process's message without control characters, shortened."""
    return "".join(c if c.isprintable() else "?" for c in text[:_MAX_MESSAGE])
