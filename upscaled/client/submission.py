"""Submissions: a file and fields as a form, sent until the server takes them."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from upscaled.client.errors import ClientError, LocalFileError
from upscaled.client.transport import Transport, json_of

Fields = Mapping[str, object]
"""Text, numbers and truth values by name."""

_EXPECT_BYTES = 64 << 10
"""Larger bodies are announced first (``Expect: 100-continue``), so that a server with a full queue
refuses them unsent."""
_TAKING_BACK_SECONDS = 5


async def submitted(
    transport: Transport,
    path: str,
    part: str,
    content: Path | bytes,
    fields: Fields | None,
    *,
    name: str,
    answered: str,
) -> str:
    """Send a form with a file; return the id that the server gives it.

    Each attempt has the same ``Idempotency-Key``, so that a server that knows the header takes the
    file once.

    Args:
        transport: to the server.
        path: the endpoint.
        part: name of the file's part.
        content: a file, or its content.
        fields: the other parts.
        name: the file's name; empty: the path's own, else the name of the part.
        answered: the answer's field that has the id.

    Raises:
        ClientError: the server refused it, or can't be reached.
    """
    values, kind = texts(fields), "image/*" if part == "image" else "application/octet-stream"
    name = name or (content.name if isinstance(content, Path) else part)
    key = uuid.uuid4().hex

    async def once() -> Any:
        async with _opened(content) as (opened, size):
            form = aiohttp.FormData(values, default_to_multipart=True)
            # aiohttp closes what it has sent; the next attempt opens the file again.
            form.add_field(part, opened, filename=name, content_type=kind)
            async with transport.attempt(
                "POST",
                path,
                data=form,
                headers={"Idempotency-Key": key},
                expect100=size > _EXPECT_BYTES,
            ) as response:
                return await json_of(response)

    answer = await transport.repeated(once)
    try:
        return str(answer[answered])
    except (KeyError, TypeError):
        raise transport.not_upscaled() from None


@contextlib.asynccontextmanager
async def taken_back(delete: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Delete what was submitted if the block is cancelled.

    Args:
        delete: deletes it on the server.
    """
    try:
        yield
    except asyncio.CancelledError:
        with contextlib.suppress(ClientError, TimeoutError):
            async with asyncio.timeout(_TAKING_BACK_SECONDS):
                await delete()
        raise


def texts(fields: Fields | None) -> dict[str, str]:
    """Return fields as the API takes them."""
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in (fields or {}).items()
    }


@contextlib.asynccontextmanager
async def _opened(picture: Path | bytes) -> AsyncIterator[tuple[Any, int]]:
    """Yield what aiohttp sends, and its length in bytes."""
    if isinstance(picture, bytes):
        yield picture, len(picture)
        return
    try:
        file = await asyncio.to_thread(picture.open, "rb")
        size = (await asyncio.to_thread(picture.stat)).st_size
    except OSError as error:
        raise LocalFileError(f"{picture}: {error.strerror}.") from error
    try:
        yield file, size
    finally:
        await asyncio.to_thread(file.close)
