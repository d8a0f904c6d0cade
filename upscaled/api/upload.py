"""Receives uploads: the fields of a multipart request, and the picture, written to the disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiofiles
from aiofiles.threadpool.binary import AsyncFileIO
from aiohttp import web

from upscaled.api import multipart
from upscaled.api.auth import client_of
from upscaled.api.context import SERVICE, SUBMISSION_RATE
from upscaled.api.multipart import Part
from upscaled.errors import (
    OUT_OF_SPACE,
    BadRequestError,
    NoSpaceError,
    NotAPictureError,
    RequestTimeoutError,
    TooManyBytesError,
)
from upscaled.service.uploads import Upload

IMAGE = "image"
"""Name of the part that holds the picture."""

_MAX_TEXT_BYTES = 1024  # of a field; the longest sensible one is a model's name
_PACE_BYTES = 1 << 20
_WRITE_BYTES = 256 * 1024  # gathered before a thread is asked to write them


class BodyTypeError(NotAPictureError):
    """The request is no multipart/form-data."""

    code = "unsupported_media_type"


@dataclass(frozen=True)
class ReceivedForm:
    """A multipart request that has come whole."""

    fields: Mapping[str, str]
    filename: str | None
    """Name of the picture, perhaps empty; None where there is no picture."""
    path: Path
    """Where the picture is, if there is one."""
    rate_headers: Mapping[str, str]
    """What is left of the client's rate, for the response."""


@asynccontextmanager
async def received(
    request: web.Request, fields: Iterable[str], *, queues: bool
) -> AsyncGenerator[ReceivedForm]:
    """Receive a multipart request, bounded by what queue, disk and rate allow.

    The picture's file is deleted at the end of the block, unless the block returns and
    ``queues`` is set.

    Args:
        request: its body has not been read.
        fields: names that are allowed beside `IMAGE`.
        queues: the request is to become a job. Its picture must not be missing then.

    Raises:
        UpscaledError: the refusal.
    """
    service = request.app[SERVICE]
    settings = service.config.server
    max_bytes = settings.max_request_size_mb * 2**20
    check_head(request, max_bytes)
    client = client_of(request)
    rate_headers = request.app[SUBMISSION_RATE].check(client.key)
    upload = await service.intake.begin_upload(client, request.content_length, queues=queues)
    keep = False
    try:
        try:
            form, filename = await _receive(
                request,
                upload,
                allowed=fields,
                max_bytes=max_bytes,
                seconds_per_mib=settings.body_timeout_seconds,
                picture_needed=queues,
            )
        finally:
            upload.end()
        yield ReceivedForm(form, filename, upload.path, rate_headers)
        keep = queues
    finally:
        if not keep:
            await service.intake.discard_upload(upload.path)


def check_head(request: web.Request, max_bytes: int) -> None:
    """Refuse a request for its headers, before its body is read.

    Raises:
        BodyTypeError: not multipart/form-data, or compressed.
        TooManyBytesError: longer than ``max_bytes``.
    """
    encoding = ", ".join(request.headers.getall("Content-Encoding", ())).strip()
    if encoding.lower() not in {"", "identity"}:
        # A few bytes could unpack to any number of them.
        raise BodyTypeError(
            f"The request body has the Content-Encoding {encoding[:64]!r}; send it uncompressed, "
            "without that header."
        )
    # Not `request.content_type`: it looks up whatever codec a `name*=` parameter names.
    media_type = request.headers.get("Content-Type", "").partition(";")[0]
    if media_type.strip().lower() != "multipart/form-data":
        raise BodyTypeError(
            "Send the request as multipart/form-data with the picture as the file `image`, "
            "as `curl -F image=@photo.jpg` does."
        )
    if (request.content_length or 0) > max_bytes:
        raise _too_large(max_bytes)


def _too_large(max_bytes: int) -> TooManyBytesError:
    return TooManyBytesError(
        f"The request is larger than the {max_bytes // 2**20} MiB this server takes."
    )


async def _body(request: web.Request, max_bytes: int, seconds: float) -> AsyncGenerator[bytes]:
    """Yield the body as it comes.

    Raises:
        TooManyBytesError: it is longer than ``max_bytes``.
        RequestTimeoutError: waiting for one MiB of it took longer than ``seconds``.
    """
    if request.headers.get("Expect", "").lower() == "100-continue":
        # Not before: a caller that was refused need not send the body at all.
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    loop = asyncio.get_running_loop()
    received, patience = 0, seconds
    while True:
        began = loop.time()
        try:
            async with asyncio.timeout(patience):
                chunk = await request.content.readany()
        except TimeoutError:
            raise RequestTimeoutError(
                f"The request's body came too slowly: each MiB of it has {seconds:g} s."
            ) from None
        if not chunk:
            return
        patience -= loop.time() - began
        if received // _PACE_BYTES < (received + len(chunk)) // _PACE_BYTES:
            patience = seconds
        received += len(chunk)
        if received > max_bytes:
            raise _too_large(max_bytes)
        yield chunk


class _FormReader:
    """What has been received of a form so far."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self.allowed = (IMAGE, *allowed)
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self._seen: set[str] = set()
        self._open: str | None = None
        self._text = bytearray()
        self._image_bytes = 0

    def begin(self, part: Part) -> None:
        """Note that a part begins.

        Raises:
            BadRequestError: a field by that name was there already, or is not known.
        """
        self.end()
        if part.name not in self.allowed:
            raise BadRequestError(
                f"There is no field {part.name[:64]!r}; allowed are {', '.join(self.allowed)}."
            )
        if part.name in self._seen:
            raise BadRequestError(f"The field {part.name!r} was sent twice; send it once.")
        self._seen.add(part.name)
        self._open = part.name
        self._text.clear()
        if part.name == IMAGE:
            self.filename = part.filename or ""

    def end(self) -> None:
        """Note that the part is complete.

        Raises:
            BadRequestError: its text is no UTF-8.
        """
        if self._open is not None and self._open != IMAGE:
            try:
                value = self._text.decode()
            except UnicodeDecodeError:
                raise BadRequestError(f"The field {self._open!r} is not UTF-8 text.") from None
            if value.strip():  # a blank input of an HTML form or PHP's false: not given
                self.fields[self._open] = value
        self._open = None

    def text(self, piece: bytes) -> None:
        """Add a piece of a field's text.

        Raises:
            BadRequestError: it grows too long.
        """
        self._text += piece
        if len(self._text) > _MAX_TEXT_BYTES:
            raise BadRequestError(
                f"The field {self._open!r} is longer than {_MAX_TEXT_BYTES} bytes."
            )

    @property
    def in_image(self) -> bool:
        """Tell whether the open part is the picture."""
        return self._open == IMAGE

    def count_image(self, count: int) -> None:
        """Count bytes of the picture."""
        self._image_bytes += count

    def check_complete(self, picture_needed: bool) -> None:
        """Check that a picture came, or that it may be missing.

        Raises:
            BadRequestError: it is missing or empty.
        """
        if not picture_needed and not self.filename and not self._image_bytes:
            self.filename = None  # a file input that was left blank is not a picture
            return
        if self.filename is None:
            raise BadRequestError(
                "The field `image` is missing; send the picture as a file under that name."
            )
        if not self._image_bytes:
            raise BadRequestError("The file in the field `image` is empty.")


class _PictureFile:
    """The file that a picture is written to, `_WRITE_BYTES` at a time.

    Most pictures are smaller: their file is made, written and closed in one step.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: AsyncFileIO | None = None
        self._waiting = bytearray()

    async def take(self, piece: bytes) -> None:
        """Add to the file.

        Raises:
            OSError: the disk takes no more.
        """
        self._waiting += piece
        if len(self._waiting) >= _WRITE_BYTES:
            if self._file is None:
                self._file = await aiofiles.open(self._path, "wb", buffering=0)
            await self._write(self._file)

    async def end(self) -> None:
        """Write the rest and close the file.

        Raises:
            OSError: the disk is full. A write first takes what still fits; the next one fails.
        """
        if self._file is None:
            await asyncio.to_thread(self._path.write_bytes, self._waiting)
        else:
            await self._write(self._file)
            await self._file.close()

    async def _write(self, file: AsyncFileIO) -> None:
        waiting, self._waiting = self._waiting, bytearray()
        rest = memoryview(waiting)
        while rest:
            rest = rest[await file.write(rest) :]

    async def close(self) -> None:
        """Close the file, however far it got."""
        if self._file is not None:
            await self._file.close()


async def _receive(
    request: web.Request,
    upload: Upload,
    *,
    allowed: Iterable[str],
    max_bytes: int,
    seconds_per_mib: float,
    picture_needed: bool = True,
) -> tuple[dict[str, str], str | None]:
    """Write the picture of a multipart request to its file; return the fields and its name.

    The parts may come in any order, each name once at most. On an exception the file may hold a
    part of the picture. The name is None, and the file empty, when no picture was sent.

    Raises:
        BadRequestError: a part is unknown, doubled, too long or missing, or the body is broken.
        TooManyBytesError: the body is longer than ``max_bytes``.
        RequestTimeoutError: the body comes more slowly than ``seconds_per_mib`` says.
        NoSpaceError: the disk is full.
        ConnectionError: the client went away.
    """
    boundary = multipart.boundary_of(request.headers.get("Content-Type", ""))
    got = _FormReader(allowed)
    file = _PictureFile(upload.path)
    try:
        async with (
            aclosing(_body(request, max_bytes, seconds_per_mib)) as body,
            aclosing(multipart.parts(body, boundary)) as events,
        ):
            async for event in events:
                if isinstance(event, Part):
                    got.begin(event)
                elif not got.in_image:
                    got.text(event)
                else:
                    got.count_image(len(event))
                    await upload.write(len(event))
                    await file.take(event)
            got.end()
            got.check_complete(picture_needed)
            await file.end()
    except OSError as error:
        if error.errno in OUT_OF_SPACE:
            raise NoSpaceError("The server's disk has no room for this upload.") from error
        raise
    except (web.RequestPayloadError, asyncio.IncompleteReadError) as error:
        raise BadRequestError(f"The request's body is broken: {error}.") from error
    finally:
        await file.close()
    return got.fields, got.filename
