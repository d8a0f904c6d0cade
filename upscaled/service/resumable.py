"""Uploads that can be continued: received bytes stay when the connection breaks."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path

from upscaled import files
from upscaled.callers import Caller
from upscaled.errors import (
    OUT_OF_SPACE,
    BadRequestError,
    NoSpaceError,
    QueueFullError,
    UnknownUploadError,
    UploadIncompleteError,
    UploadOffsetError,
    no_room,
)
from upscaled.jobs.workspace import Workspace
from upscaled.service.upload_room import Upload, UploadsInProgress

_WRITE_BYTES = 256 * 1024  # collected before a thread writes them
_ROUND_SECONDS = 30.0


class ResumableUpload:
    """A picture that arrives in one request or several."""

    def __init__(self, owner: str, filename: str, length: int, room: Upload) -> None:
        self.id = secrets.token_hex(16)
        self.owner = owner
        self.filename = filename
        self.length = length
        """In bytes, as its caller declared it."""
        self.offset = 0
        """How many bytes are in its file."""
        self.room = room
        self.heard = time.monotonic()
        """When bytes last arrived, or its state was last requested."""
        self.lock = asyncio.Lock()
        """Held while its file changes."""
        self.turn = 0
        """The request that may write; one with a lower number was overtaken."""
        self.receiving = 0
        """How many requests send it."""

    async def overtake(self) -> int:
        """Return the next turn. A request that still has an earlier one writes no more."""
        async with self.lock:
            self.turn += 1
            self.heard = time.monotonic()
            return self.turn


class ResumableUploads:
    """Uploads that arrive in several requests, each until it becomes a job.

    They are kept in memory and in the folder of uploads, so a restart of the server forgets them.

    Args:
        workspace: where their files are.
        room: counts their bytes like those of other uploads.
        most: how many there may be.
        seconds: how long an upload is kept without being continued.
    """

    def __init__(
        self, workspace: Workspace, room: UploadsInProgress, most: int, seconds: float
    ) -> None:
        self._workspace = workspace
        self._room = room
        self._most = most
        self.seconds = seconds
        self._uploads: dict[str, ResumableUpload] = {}

    async def begin(self, client: Caller, length: int, filename: str) -> ResumableUpload:
        """Reserve room for an upload.

        Raises:
            QueueFullError: there are as many as there may be.
            NoSpaceError: the disk has no room for it.
        """
        room = await self._room.begin(client, length, queues=False)
        if len(self._uploads) >= self._most:
            room.end()
            raise QueueFullError(
                f"There are {len(self._uploads)} unfinished uploads, as many as this server keeps; "
                "try again later, or send the picture with one request.",
                headers={"Retry-After": "30"},
            )
        room.resting = True
        upload = ResumableUpload(client.owner, filename, length, room)
        self._uploads[upload.id] = upload
        return upload

    def get(self, upload_id: str, client: Caller) -> ResumableUpload:
        """Return an upload of the caller's.

        Raises:
            UnknownUploadError: there is none with this id, or it is another caller's.
        """
        upload = self._uploads.get(upload_id)
        if upload is None or upload.owner != client.owner:
            raise UnknownUploadError(
                f"There is no upload {upload_id[:64]!r}; begin a new one with POST /uploads. One "
                f"that nobody continues is deleted after {self.seconds / 60:g} minutes, and when "
                "the server restarts."
            )
        return upload

    async def receive(
        self, upload: ResumableUpload, offset: int, chunks: AsyncIterator[bytes]
    ) -> None:
        """Add bytes to an upload. Bytes that arrived before an exception stay.

        Args:
            upload: one that is not complete.
            offset: where the bytes belong.
            chunks: the bytes.

        Raises:
            UploadOffsetError: they belong elsewhere, or another request continues the upload.
            BadRequestError: there are more than the upload's length says.
            NoSpaceError: the disk is full.
        """
        turn = await upload.overtake()
        if offset != upload.offset:
            raise _misplaced(upload)
        upload.receiving += 1
        upload.room.resting = False
        waiting, end = bytearray(), offset
        try:
            async for chunk in chunks:
                end += len(chunk)
                if end > upload.length:
                    raise BadRequestError(
                        f"The upload is longer than its Upload-Length of {upload.length} bytes."
                    )
                waiting += chunk
                if len(waiting) >= _WRITE_BYTES:
                    piece, waiting = waiting, bytearray()
                    await self._write(upload, turn, piece)
        finally:
            try:
                if waiting:
                    await self._write(upload, turn, waiting)
            finally:
                upload.receiving -= 1
                upload.room.resting = not upload.receiving
                upload.heard = time.monotonic()

    async def _write(self, upload: ResumableUpload, turn: int, piece: bytearray) -> None:
        async with upload.lock:
            if upload.turn != turn:
                raise _misplaced(upload)
            await upload.room.write(len(piece))
            try:
                # If this is cancelled, the thread continues, and the same bytes are sent again.
                await files.in_thread(_write_at, upload.room.path, upload.offset, bytes(piece))
            except OSError as error:
                if error.errno in OUT_OF_SPACE:
                    words = "The server's disk has no room for this upload."
                    raise NoSpaceError(no_room(error, words)) from error
                raise
            upload.offset += len(piece)
            upload.heard = time.monotonic()

    async def link(self, upload_id: str, client: Caller, path: Path) -> str:
        """Link a complete upload to ``path``; return the picture's name.

        Raises:
            UnknownUploadError: there is no such upload.
            UploadIncompleteError: a part of it is missing.
        """
        upload = self.get(upload_id, client)
        async with upload.lock:
            if upload.offset < upload.length:
                raise UploadIncompleteError(
                    f"The upload has {upload.offset} of {upload.length} bytes; send the rest to "
                    "its address first."
                )
            upload.heard = time.monotonic()
            await files.in_thread(_link, upload.room.path, path)
        return upload.filename

    async def end(self, upload_id: str, client: Caller) -> None:
        """Delete an upload; nothing if there is none.

        Raises:
            UnknownUploadError: it is another caller's, or there is none.
        """
        await self._delete(self.get(upload_id, client))

    async def _delete(self, upload: ResumableUpload) -> None:
        self._uploads.pop(upload.id, None)
        async with upload.lock:
            upload.turn += 1  # a request that still sends must not create its file again
            upload.room.end()
            await self._workspace.discard(upload.room.path)

    async def run(self) -> None:
        """Delete abandoned uploads; runs until cancelled."""
        while True:
            await asyncio.sleep(min(_ROUND_SECONDS, self.seconds / 4))
            await self.expire(time.monotonic())

    async def expire(self, now: float) -> None:
        """Delete the uploads that are abandoned at ``now``, a time of the monotonic clock."""
        for upload in list(self._uploads.values()):
            if not upload.receiving and now - upload.heard > self.seconds:
                await self._delete(upload)


def _misplaced(upload: ResumableUpload) -> UploadOffsetError:
    return UploadOffsetError(
        f"The upload continues at byte {upload.offset}; send from there, by one request at a time.",
        headers={"Upload-Offset": str(upload.offset)},
    )


def _link(source: Path, path: Path) -> None:
    path.unlink(missing_ok=True)
    os.link(source, path)


def _write_at(path: Path, offset: int, piece: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        rest = memoryview(piece)
        while rest:
            count = os.pwrite(descriptor, rest, offset)
            offset, rest = offset + count, rest[count:]
    finally:
        os.close(descriptor)
