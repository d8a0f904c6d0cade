"""The file of an unfinished result whose first pieces are among the blobs and not on the disk."""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping
from contextlib import aclosing
from pathlib import Path

from upscaled import files
from upscaled.blobs.blobs import Blobs
from upscaled.cluster.pieces import (
    LostPieceError,
    bring_piece,
    count_stored,
    count_written,
    piece_on_disk,
    stored_piece,
)
from upscaled.imaging import Piece


class AwayResult:
    """The file of a job's result, of which the disk need not have all.

    A piece leaves the disk once the blobs have it, and have the record that names it. The pieces
    that have left are always the first ones of the file, whose length stays.

    Args:
        path: the file.
        blobs: where its pieces go.
        job_id: the job.
    """

    def __init__(self, path: Path, blobs: Blobs, job_id: str) -> None:
        self._path = path
        self._blobs = blobs
        self._job_id = job_id
        self._away: dict[Piece, str] = {}
        """The pieces that have left, with the digests that name them, …"""
        self._digest = hashlib.sha256()
        """… and the digest of all of them together."""
        self._pieces: tuple[Piece, ...] = ()
        """Those of the complete file."""
        self._may_leave: bool | None = None
        """None: it is not known yet whether the disk can free parts of a file."""
        self._lock = asyncio.Lock()

    @property
    def away(self) -> Collection[Piece]:
        """The pieces that have left."""
        return self._away.keys()

    @property
    def is_complete(self) -> bool:
        """Whether `complete` was called."""
        return bool(self._pieces)

    def stay(self) -> None:
        """Let no more pieces leave."""
        self._may_leave = False

    async def may_leave(self) -> bool:
        """Tell whether pieces may leave.

        Raises:
            OSError: the disk is full or broken.
        """
        if self._may_leave is None:
            self._may_leave = await files.in_thread(files.can_free, self._path)
        return self._may_leave

    async def leave(self, pieces: Iterable[Piece], stored: Mapping[Piece, str]) -> None:
        """Give the room of pieces back that are among the blobs.

        Args:
            pieces: the first ones of the file, in order.
            stored: the digest of each.

        Raises:
            OSError: one can't be read, or is not what was stored.
        """
        async with self._lock:
            for piece in pieces:
                if piece in self._away or not await self.may_leave():
                    continue
                counted = self._digest.copy()
                await files.in_thread(count_stored, self._path, piece, stored[piece], counted)
                self._note(piece, stored[piece], counted)
                # From the first byte on: two pieces may share a block.
                await files.in_thread(files.free, self._path, 0, piece.offset + piece.length)

    def _note(self, piece: Piece, digest: str, counted: hashlib._Hash) -> None:
        self._away[piece], self._digest = digest, counted

    async def take(self, piece: Piece, sha256: str) -> None:
        """Count the next piece, which an earlier worker has stored, as one that has left.

        Raises:
            LostPieceError: it is missing or damaged.
            StoreUnavailableError: the blobs don't answer.
            OSError: the disk is full or broken.
        """
        counted, check = self._digest.copy(), 0
        async with aclosing(stored_piece(self._blobs, self._job_id, piece, sha256)) as blocks:
            async for block in blocks:
                await asyncio.to_thread(counted.update, block)
                check = zlib.crc32(block, check)
        if check != piece.crc32:
            raise LostPieceError("it is another one")
        await files.in_thread(_lengthen, self._path, piece.offset + piece.length)
        self._note(piece, sha256, counted)

    async def hold(self) -> int:
        """Let no more pieces leave; return how many bytes have left."""
        async with self._lock:
            self.stay()
            return sum(piece.length for piece in self._away)

    async def complete(self, pieces: Iterable[Piece]) -> str:
        """Note which pieces the complete file has; return its SHA-256.

        Raises:
            OSError: one can't be read, or is not what was written.
        """
        async with self._lock:
            found, pieces = self._digest.copy(), tuple(pieces)
            for piece in pieces:
                if piece not in self._away:
                    await files.in_thread(count_written, self._path, piece, found)
            self._pieces = pieces
            return found.hexdigest()

    async def stream(self) -> AsyncGenerator[bytes | memoryview]:
        """Yield the bytes of the complete file, from the blobs and from the disk.

        Raises:
            LostPieceError: a piece is missing among the blobs, or damaged.
            StoreUnavailableError: the blobs don't answer.
            OSError: the disk is broken.
        """
        for piece in self._pieces:
            digest = self._away.get(piece)
            if digest is None:
                source = piece_on_disk(self._path, piece)
            else:
                source = stored_piece(self._blobs, self._job_id, piece, digest)
            async with aclosing(source) as blocks:
                async for block in blocks:
                    yield block

    async def bring_back(self) -> None:
        """Bring all pieces back to the disk.

        Raises:
            LostPieceError: one is missing or damaged.
            StoreUnavailableError: the blobs don't answer.
            OSError: the disk is full or broken.
        """
        async with self._lock:
            self.stay()
            for piece, digest in self._away.items():
                await bring_piece(self._blobs, self._job_id, piece, digest, self._path)
            self._away, self._digest = {}, hashlib.sha256()


def _lengthen(path: Path, length: int) -> None:
    with open(path, "r+b", opener=files.no_follow) as file:
        file.truncate(length)
