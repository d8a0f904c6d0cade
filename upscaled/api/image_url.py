"""Fetches the picture of a submission from an address that the caller named."""

from __future__ import annotations

from pathlib import PurePosixPath
from urllib.parse import unquote

import aiohttp
from aiohttp import web

from upscaled.api.connections import while_connected
from upscaled.api.context import SERVICE
from upscaled.api.picture_file import PictureFile
from upscaled.errors import (
    BadRequestError,
    ImageTimeoutError,
    TooManyBytesError,
    UnavailableImageError,
    UnreachableImageError,
)
from upscaled.outgoing.client import TO_GET
from upscaled.outgoing.errors import AddressRefusedError, HostUnreachableError, NoAnswerError
from upscaled.service.service import Service
from upscaled.service.upload_room import Upload

_ACCEPT = "image/*, application/octet-stream;q=0.5"


async def fetch(request: web.Request, url: str, upload: Upload, max_bytes: int) -> str:
    """Write the picture at ``url`` to the upload's file; return its SHA-256 in hexadecimal.

    Args:
        request: the caller's; the fetch ends when the caller goes away.
        url: the picture's address.
        upload: reserves room on the disk.
        max_bytes: the largest picture.

    Raises:
        BadRequestError: the address may not be used.
        UnavailableImageError: there is no picture.
        UnreachableImageError: the other server can't be reached, or is at fault.
        ImageTimeoutError: it takes too long.
        TooManyBytesError: the picture is too large.
        NoSpaceError: the disk is full.
        ConnectionResetError: the caller went away.
        ShuttingDownError: the server is stopping.
    """
    service = request.app[SERVICE]
    if not service.config.features.image_url:
        raise BadRequestError(
            "This server does not fetch pictures (features.image_url is off); send the picture as "
            "the file `image`."
        )
    work = _fetch(service, url, upload, max_bytes)
    return await while_connected(request, work, "fetch-image-url")


async def _fetch(service: Service, url: str, upload: Upload, max_bytes: int) -> str:
    file = PictureFile(upload.path)
    try:
        async with service.outgoing.request(
            "GET",
            url,
            seconds=service.config.outgoing.timeout_seconds,
            follow=TO_GET,
            headers={"Accept": _ACCEPT},
        ) as response:
            _check(response, max_bytes)
            received = 0
            async for chunk in response.content.iter_any():
                received += len(chunk)
                if received > max_bytes:
                    raise _too_large(max_bytes)
                await upload.write(len(chunk))
                await file.take(chunk)
        if not received:
            raise UnavailableImageError("There is nothing at the image_url. The answer was empty.")
        return await file.end()
    except AddressRefusedError as error:
        raise BadRequestError(f"The image_url can't be used. {error}") from error
    except HostUnreachableError as error:
        raise UnreachableImageError(f"The image_url can't be fetched. {error}") from error
    except NoAnswerError as error:
        raise ImageTimeoutError(f"The image_url can't be fetched. {error}") from error
    finally:
        await file.close()


def _check(response: aiohttp.ClientResponse, max_bytes: int) -> None:
    """Refuse an answer for its head."""
    status = response.status
    if 400 <= status < 500 and status != 429:
        raise UnavailableImageError(f"There is no picture at the image_url. It answered {status}.")
    if status != 200:
        raise UnreachableImageError(f"The image_url can't be fetched. It answered {status}.")
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in {"", "identity"}:
        # A few bytes could unpack to any number of them.
        raise UnreachableImageError(
            "The image_url can't be fetched. Its answer is compressed, which was not asked for."
        )
    if (response.content_length or 0) > max_bytes:
        raise _too_large(max_bytes)


def _too_large(max_bytes: int) -> TooManyBytesError:
    return TooManyBytesError(
        f"The picture at the image_url is larger than the {max_bytes // 2**20} MiB this server "
        "takes."
    )


def name_of(url: str) -> str:
    """Return the file name in an address; empty if it has none."""
    path = url.partition("#")[0].partition("?")[0].split("/", 3)[3:]
    return unquote(PurePosixPath(path[0]).name) if path else ""
