"""Downloads a published file and checks that it is the expected one."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from upscaled.errors import UpscaledError

_CHUNK_BYTES = 1 << 18
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=20, sock_read=30)


class SetupError(UpscaledError):
    """Something could not be installed; the message says what to do instead."""

    code = "setup_failed"


@asynccontextmanager
async def downloaded(
    url: str, folder: Path, *, sha256: str, most: int, advice: str
) -> AsyncIterator[Path]:
    """Download ``url`` for the length of the block; its SHA-256 is verified before that.

    Args:
        url: what to download.
        folder: where to put it under a temporary name; created if missing.
        sha256: of the expected file.
        most: bytes at which the download is given up.
        advice: what to do if it fails, for the message.

    Raises:
        SetupError: it can't be fetched, or is not the expected file.
    """
    target = folder / f".download-{secrets.token_hex(8)}{Path(url).suffix}"
    try:
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        digest = await _fetch(url, target, most)
        if digest != sha256:
            raise SetupError(
                f"What {url} sent is not the expected file (its SHA-256 is {digest}, "
                f"not {sha256}); nothing was installed. {advice}"
            )
        yield target
    except (aiohttp.ClientError, TimeoutError) as error:
        reason = str(error) or "no answer in time"
        raise SetupError(f"{url} can't be fetched ({reason}). {advice}") from None
    except OSError as error:
        raise SetupError(f"{folder} can't be written: {error.strerror}.") from None
    finally:
        with contextlib.suppress(OSError):
            await asyncio.to_thread(target.unlink, missing_ok=True)


async def _fetch(url: str, target: Path, most: int) -> str:
    """Stream ``url`` into ``target``; return its SHA-256."""
    digest = hashlib.sha256()
    length = 0
    async with (
        aiohttp.ClientSession(timeout=_TIMEOUT, trust_env=True) as session,
        session.get(url) as response,
    ):
        response.raise_for_status()
        file = await asyncio.to_thread(target.open, "wb")
        try:
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                length += len(chunk)
                if length > most:
                    raise aiohttp.ClientPayloadError("the file is far larger than expected")
                digest.update(chunk)
                await asyncio.to_thread(file.write, chunk)
        finally:
            await asyncio.to_thread(file.close)
    return digest.hexdigest()
