"""Downloads into files: continued where they broke off, and checked against the digest."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from upscaled import files
from upscaled.client.errors import (
    BusyError,
    ClientError,
    DamagedDownloadError,
    LocalFileError,
    RefusedError,
    UnreachableError,
)
from upscaled.client.transport import Pauses, Transport, is_temporary

_CHUNK = 1 << 18


@dataclass(frozen=True)
class Downloaded:
    """A result in its place."""

    path: Path
    size_bytes: int
    sha256: str
    """In hexadecimal."""


class _Part:
    """The bytes received so far, in a file beside the target."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._digest = hashlib.sha256()
        self._file: BinaryIO | None = None

    def open(self) -> None:
        """Open the file, and continue what an earlier run left in it."""
        file = self.path.open("a+b")
        while not files.hold(file.fileno(), self.path) and files.is_part(self.path):
            file.close()
            file = self.path.open("a+b")
        self._file = file
        file.seek(0)
        while chunk := file.read(_CHUNK):
            self._take(chunk)

    def add(self, chunk: bytes) -> None:
        assert self._file is not None  # noqa: S101
        self._file.write(chunk)
        self._take(chunk)

    def _take(self, chunk: bytes) -> None:
        self._digest.update(chunk)
        self.size += len(chunk)

    def restart(self) -> None:
        """Forget all bytes."""
        assert self._file is not None  # noqa: S101
        self._file.truncate(0)
        self.size, self._digest = 0, hashlib.sha256()

    def digest(self) -> str:
        return self._digest.hexdigest()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def put(self, target: Path) -> None:
        """Move the file to ``target``, durably."""
        assert self._file is not None  # noqa: S101
        self._file.flush()
        files.sync(self.path)
        self.path.replace(target)
        self.close()
        files.sync(target.parent)


async def download(
    transport: Transport,
    job_id: str,
    target: Path,
    *,
    address: str = "",
    continuable: bool = True,
) -> Downloaded:
    """Download a job's result to ``target``; see `AsyncClient.download`.

    Args:
        transport: to the server.
        job_id: the id of the job or the archive.
        address: path of the result; empty: that of a job.
        target: the file.
        continuable: a later run may ask for the same job. If not, what a killed run leaves gets a
            name by which the next one removes it.
    """
    # The name belongs to the job, so that a later run continues what this one leaves.
    name = target.with_name(f".{target.name[:180]}.{job_id}.part")
    part = _Part(name if continuable else files.part_beside(target))
    try:
        await asyncio.to_thread(part.open)
        try:
            path = address or f"/download/{job_id}"
            sha256 = await _fetch(transport, path, part)
            await asyncio.to_thread(part.put, target)
        except (DamagedDownloadError, RefusedError) as error:
            if not isinstance(error, BusyError):
                await asyncio.to_thread(part.path.unlink, missing_ok=True)
            raise
        finally:
            await asyncio.to_thread(part.close)
    except OSError as error:
        with contextlib.suppress(OSError):
            if part.size == 0:
                await asyncio.to_thread(part.path.unlink, missing_ok=True)
        raise LocalFileError(f"{target}: {error.strerror or error}.") from error
    return Downloaded(target, part.size, sha256)


async def _fetch(transport: Transport, path: str, part: _Part) -> str:
    """Fetch all bytes; return the SHA-256 that the server announced and they have."""
    pauses = transport.retries.begin()
    damaged = 0
    while True:
        try:
            announced = await _attempt(transport, path, part, pauses)
        except ClientError as error:
            if (
                getattr(error, "status", 0) == 416
            ):  # what an earlier run left is not part of this result
                await asyncio.to_thread(part.restart)
                announced = None
            elif not is_temporary(error):
                raise
            await pauses.before_next(error)
            continue
        if announced in {None, part.digest()}:
            return part.digest()
        damaged += 1
        if damaged == 2:
            raise DamagedDownloadError(
                f"The download of {path} is damaged: its SHA-256 is {part.digest()}, "
                f"not {announced}."
            )
        await asyncio.to_thread(part.restart)


async def _attempt(transport: Transport, path: str, part: _Part, pauses: Pauses) -> str | None:
    """Fetch what is missing; return the announced SHA-256 of the whole, if there is one.

    The last received byte is requested again, since an empty range can't be requested.

    Raises:
        ClientError: it broke off; ``part`` has the received bytes.
    """
    start = max(0, part.size - 1)
    headers = {"Range": f"bytes={start}-"} if part.size else {}
    async with transport.attempt("GET", path, params={"wait": "45"}, headers=headers) as response:
        announced = re.search(
            r"sha-256=:([A-Za-z0-9+/=]+):", response.headers.get("Repr-Digest", "")
        )
        skipped = part.size - start
        if response.status != 206:
            await asyncio.to_thread(part.restart)
            skipped = 0
        async for chunk in response.content.iter_chunked(_CHUNK):
            fresh = chunk[skipped:]
            skipped = max(0, skipped - len(chunk))
            await asyncio.to_thread(part.add, fresh)
            pauses.reset()
        expected = response.content_length
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
        whole = int(total) if total.isdecimal() else expected
        if whole is not None and part.size < whole:
            raise UnreachableError(f"The download of {path} broke off.")
    return base64.b64decode(announced[1]).hex() if announced else None
