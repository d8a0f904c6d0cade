"""Submissions: a file and fields as a form, sent until the server takes them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from upscaled.client.errors import LocalFileError
from upscaled.client.transport import Transport, json_of

Fields = Mapping[str, object]
"""Text, numbers and truth values by name."""

_EXPECT_BYTES = 64 << 10
"""Larger bodies are announced first (``Expect: 100-continue``), so that a server with a full queue
refuses them unsent."""


async def submitted(
    transport: Transport,
    path: str,
    part: str,
    content: Path | bytes,
    fields: Fields | None,
    *,
    name: str,
    key: str,
) -> Any:
    """Send a form with a file; return the answer.

    Args:
        transport: to the server.
        path: the endpoint.
        part: name of the file's part.
        content: a file, or its content.
        fields: the other parts.
        name: the file's name.
        key: the ``Idempotency-Key``, the same in each attempt.

    Raises:
        ClientError: the server refused it, or can't be reached.
    """
    values, kind = texts(fields), "image/*" if part == "image" else "application/octet-stream"

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

    return await transport.repeated(once)


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
