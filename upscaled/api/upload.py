"""Receives uploads: the fields of a request, and the picture, written to the disk."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from upscaled.api import image_url, multipart
from upscaled.api.auth import client_of
from upscaled.api.context import CONTEXT, SERVICE, SUBMISSION_RATE
from upscaled.api.form_reader import ELSEWHERE, IMAGE_URL, PICTURE, UPLOAD, FormReader, Payload
from upscaled.api.multipart import Part
from upscaled.api.picture_file import PictureFile
from upscaled.api.query import query_of
from upscaled.api.rate_limit import RateLimit
from upscaled.errors import (
    OUT_OF_SPACE,
    BadRequestError,
    NoSpaceError,
    NotAPictureError,
    QueueFullError,
    RequestTimeoutError,
    ShuttingDownError,
    TooManyBytesError,
    TooManyRequestsError,
    UnknownUploadError,
    UpscaledError,
    no_room,
)
from upscaled.service.upload_room import Upload

_PACE_BYTES = 1 << 20
_MULTIPART = "multipart/form-data"
_RAW = re.compile(r"image/[a-z0-9.+-]{1,64}|application/octet-stream")
"""Types of a body that is the picture itself. Its content decides what it is."""


_PASSING = (QueueFullError, ShuttingDownError, TooManyRequestsError)
"""Refusals that the picture did not cause."""


class BodyTypeError(NotAPictureError):
    """The request's body is neither a form nor a picture."""

    code = "unsupported_media_type"


@dataclass(frozen=True)
class ReceivedForm:
    """A request that has come whole."""

    fields: Mapping[str, str]
    filename: str | None
    """Name of the picture, perhaps empty; None where there is no picture."""
    path: Path
    """Where the picture is, if there is one."""
    sha256: str
    """The picture's digest, in hexadecimal; empty where it is not known."""
    identity: str
    """The picture's identity for the comparison of requests: its digest, its address or the id of
    its upload."""
    refusal: UpscaledError | None
    """Why it can't become a job, if it was read all the same."""


@asynccontextmanager
async def received(
    request: web.Request,
    fields: Iterable[str],
    *,
    queues: bool,
    picture_needed: bool = True,
    read_anyway: bool = False,
    rate: web.AppKey[RateLimit] = SUBMISSION_RATE,
    payload: Payload = PICTURE,
    max_bytes: int | None = None,
) -> AsyncGenerator[ReceivedForm]:
    """Receive a form or a picture, bounded by what queue, disk and rate allow.

    The picture's file is deleted at the end of the block, unless the block returns and
    ``queues`` is set.

    Args:
        request: its body has not been read.
        fields: names that are allowed besides `IMAGE`.
        queues: the request is to become a job, for which there must be a place in the queue.
        picture_needed: the picture must not be missing.
        read_anyway: read it even if the queue is full, the client's rate is used up or the server
            is stopping, since its caller gets the picture back.
        rate: how often the client may do this.
        payload: what is sent, if not a picture.
        max_bytes: the longest body, if not that of the settings.

    Raises:
        UpscaledError: the refusal.
    """
    service = request.app[SERVICE]
    settings = service.config.server
    max_bytes = max_bytes or settings.max_request_size_mb * 2**20
    query = query_of(request)
    # If the query says it all, no body is needed.
    body_needed = picture_needed and not any(name in query for name in ELSEWHERE)
    has_body = request.can_read_body or body_needed
    is_raw = has_body and check_head(request, max_bytes, payload)
    reader = FormReader(fields, query.items(), payload)
    client = client_of(request)
    refusal: UpscaledError | None = None
    submissions, length = service.submissions, request.content_length
    try:
        request[CONTEXT].rate_headers = request.app[rate].check(client.key)
        upload = await submissions.begin_upload(client, length, queues=queues)
    except _PASSING as error:
        if not read_anyway:
            raise
        refusal = error
        upload = await submissions.begin_upload(client, length, queues=False)
    keep = False
    try:
        try:
            async with aclosing(body_of(request, max_bytes, settings.body_timeout_seconds)) as body:
                events = _parts(request, body, payload, is_raw=is_raw, has_body=has_body)
                async with aclosing(events):
                    sha256 = await _receive(events, reader, upload, picture_needed=picture_needed)
            filename, identity = reader.filename, sha256
            if any(name in reader.fields for name in ELSEWHERE):
                takes = queues or reader.fields.get("on_timeout") == "original"
                filename, sha256, identity = await _elsewhere(
                    request, reader.fields, upload, max_bytes, takes=takes
                )
        finally:
            upload.end()
        yield ReceivedForm(reader.fields, filename, upload.path, sha256, identity, refusal)
        keep = queues and refusal is None
        if keep and UPLOAD in reader.fields:
            with contextlib.suppress(UnknownUploadError):  # deleted already if this is a repetition
                await submissions.resumable.end(reader.fields[UPLOAD], client)
    finally:
        if not keep:
            await submissions.discard_upload(upload.path)


def check_head(request: web.Request, max_bytes: int, payload: Payload = PICTURE) -> bool:
    """Refuse a request for its headers, before its body is read.

    Returns:
        Whether the body is the picture itself. Else it is a form.

    Raises:
        BodyTypeError: neither a form nor a picture, or compressed.
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
    media_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    # `curl -T` sends no type.
    is_raw = (
        bool(_RAW.fullmatch(media_type))
        or media_type in payload.media_types
        or (not media_type and request.method in {"PUT", "PATCH"})
    )
    if not request.can_read_body and not request.query_string:
        is_raw = False  # nothing was sent; some libraries name a type all the same
    if media_type == "application/x-www-form-urlencoded":
        raise BodyTypeError(
            "The body came as application/x-www-form-urlencoded, which curl's --data-binary sends "
            f"by default; add its own type, such as `Content-Type: {payload.media_type}`, or send "
            f"a form, as `curl -F {payload.part}=@{payload.example}` does."
        )
    if not is_raw and media_type != _MULTIPART:
        raise BodyTypeError(
            f"Send the request as multipart/form-data with the {payload.noun} as the file "
            f"`{payload.part}`, as `curl -F {payload.part}=@{payload.example}` does, or the "
            f"{payload.noun} alone with its Content-Type, such as {payload.media_type}."
        )
    if (request.content_length or 0) > max_bytes:
        raise too_large(max_bytes)
    return is_raw


def too_large(max_bytes: int) -> TooManyBytesError:
    """Return the error for a request that is longer than ``max_bytes``."""
    return TooManyBytesError(
        f"The request is larger than the {max_bytes // 2**20} MiB this server takes."
    )


async def body_of(request: web.Request, max_bytes: int, seconds: float) -> AsyncGenerator[bytes]:
    """Yield the body as it arrives.

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
            raise too_large(max_bytes)
        yield chunk


def _parts(
    request: web.Request,
    body: AsyncIterator[bytes],
    payload: Payload,
    *,
    is_raw: bool,
    has_body: bool,
) -> AsyncGenerator[Part | bytes]:
    """Return the parts of a request, each followed by its bytes."""
    if is_raw:
        return _raw(body, payload.part, request.match_info.get("filename", ""))
    if has_body:
        return multipart.parts(body, multipart.boundary_of(request.headers["Content-Type"]))
    return _nothing()


async def _elsewhere(
    request: web.Request, fields: Mapping[str, str], upload: Upload, max_bytes: int, *, takes: bool
) -> tuple[str | None, str, str]:
    """Bring a picture that the form only names to the place of an uploaded one.

    Without ``takes`` only the name of an address is read: an estimate needs no picture. A
    repetition of a request gets the first one's job; the address may have expired since, or the
    upload been deleted.

    Returns:
        The picture's name, its SHA-256 (empty where unknown), and its identity.

    Raises:
        UpscaledError: it can't be had.
    """
    if (url := fields.get(IMAGE_URL)) is not None:
        sha256 = await image_url.fetch(request, url, upload, max_bytes) if takes else ""
        return image_url.name_of(url), sha256, f"url {url}"
    sent = fields[UPLOAD]
    filename = ""
    if takes:
        resumable = request.app[SERVICE].submissions.resumable
        filename = await resumable.link(sent, client_of(request), upload.path)
    return filename, "", f"upload {sent}"


async def _raw(
    body: AsyncIterator[bytes], part: str, filename: str
) -> AsyncGenerator[Part | bytes]:
    """Yield what a form with nothing but the picture would have."""
    yield Part(part, filename)
    async for chunk in body:
        yield chunk


async def _nothing() -> AsyncGenerator[Part | bytes]:
    """Yield the parts of a request without a body."""
    nothing: tuple[Part | bytes, ...] = ()
    for part in nothing:
        yield part


async def _receive(
    events: AsyncIterator[Part | bytes],
    reader: FormReader,
    upload: Upload,
    *,
    picture_needed: bool,
) -> str:
    """Write the picture of a request to its file, and tell ``reader`` of the rest.

    The parts may come in any order, each name once at most. On an exception the file may hold a
    part of the picture. It is empty when no picture was sent.

    Returns:
        The picture's SHA-256 in hexadecimal.

    Raises:
        BadRequestError: a part is unknown, doubled, too long or missing, or the body is broken.
        TooManyBytesError: the body is too long.
        RequestTimeoutError: the body comes too slowly.
        NoSpaceError: the disk is full.
        ConnectionError: the client went away.
    """
    file = PictureFile(upload.path)
    try:
        async for event in events:
            if isinstance(event, Part):
                reader.begin(event)
            elif not reader.in_image:
                reader.text(event)
            else:
                reader.count_image(len(event))
                await upload.write(len(event))
                await file.take(event)
        reader.end()
        reader.check_complete(picture_needed)
        return await file.end()
    except OSError as error:
        if error.errno in OUT_OF_SPACE:
            words = "The server's disk has no room for this upload."
            raise NoSpaceError(no_room(error, words)) from error
        raise
    except (web.RequestPayloadError, asyncio.IncompleteReadError) as error:
        raise BadRequestError(f"The request's body is broken: {error}.") from error
    finally:
        await file.close()
