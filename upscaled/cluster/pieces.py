"""Pieces of a job's files: on the disk, and among the blobs under their digest."""

from __future__ import annotations

import asyncio
import hashlib
import os
import zlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import BinaryIO

from upscaled import files
from upscaled.blobs.blobs import CHUNK, BlobMissingError, Blobs
from upscaled.cluster import keys
from upscaled.imaging import Piece


class LostPieceError(Exception):
    """A piece is no longer among the blobs, or has other bytes there."""


async def stored_piece(
    blobs: Blobs, job_id: str, piece: Piece, sha256: str
) -> AsyncGenerator[bytes | memoryview]:
    """Yield the bytes of a piece that is among the blobs.

    Raises:
        LostPieceError: it is missing, or proves to be damaged at its end.
        StoreUnavailableError: the blobs don't answer.
    """
    found, length = hashlib.sha256(), 0
    try:
        key = keys.band(job_id, sha256)
    except ValueError as error:
        raise LostPieceError("it has no digest") from error
    try:
        async with aclosing(blobs.stream(key)) as blocks:
            async for block in blocks:
                length += len(block)
                if length > piece.length:
                    break
                await asyncio.to_thread(found.update, block)
                yield block
    except BlobMissingError as error:
        raise LostPieceError(str(error)) from error
    if length != piece.length or found.hexdigest() != sha256:
        raise LostPieceError("it has other bytes")


async def bring_piece(blobs: Blobs, job_id: str, piece: Piece, sha256: str, path: Path) -> None:
    """Write a piece that is among the blobs into its place in a file.

    Raises:
        LostPieceError: it is missing, or damaged; then its place has any bytes.
        StoreUnavailableError: the blobs don't answer.
        OSError: the disk is full or broken.
    """
    end = piece.offset
    async with aclosing(stored_piece(blobs, job_id, piece, sha256)) as blocks:
        async for block in blocks:
            await files.in_thread(_write, path, end, block)
            end += len(block)


def _write(path: Path, offset: int, content: bytes | memoryview) -> None:
    with open(path, "r+b" if path.exists() else "wb", opener=files.no_follow) as file:
        file.seek(offset)
        file.write(content)


async def piece_on_disk(path: Path, piece: Piece) -> AsyncGenerator[bytes | memoryview]:
    file: BinaryIO = await asyncio.to_thread(open, path, "rb", opener=files.no_follow)
    try:
        start, stop = piece.offset, piece.offset + piece.length
        while start < stop:
            block = await asyncio.to_thread(
                os.pread, file.fileno(), min(CHUNK, stop - start), start
            )
            if not block:
                raise OSError(f"{path.name} is too short")
            start += len(block)
            yield block
    finally:
        await asyncio.to_thread(file.close)


def count_stored(path: Path, piece: Piece, sha256: str, counted: hashlib._Hash) -> None:
    """Add a piece on the disk to a digest.

    Raises:
        OSError: it can't be read, or is not what was stored.
    """
    found = hashlib.sha256()
    count_written(path, piece, counted, found)
    if found.hexdigest() != sha256:
        raise OSError(f"{path.name} is damaged")


def count_written(path: Path, piece: Piece, *digests: hashlib._Hash) -> None:
    """Add a piece on the disk to digests.

    Raises:
        OSError: it can't be read, or is not what its checksum says.
    """
    check, left = 0, piece.length
    with open(path, "rb", opener=files.no_follow) as file:
        file.seek(piece.offset)
        while left and (block := file.read(min(left, CHUNK))):
            for digest in digests:
                digest.update(block)
            check = zlib.crc32(block, check)
            left -= len(block)
    if left or check != piece.crc32:
        raise OSError(f"{path.name} is damaged")


def copy_piece(path: Path, piece: Piece, target: Path) -> str:
    """Copy a piece of a file to a new one and return its SHA-256.

    Raises:
        OSError: it can't be read or written, or is not what its checksum says.
    """
    digest, check, left = hashlib.sha256(), 0, piece.length
    with open(path, "rb", opener=files.no_follow) as source, target.open("xb") as copy:
        source.seek(piece.offset)
        while left and (block := source.read(min(left, CHUNK))):
            copy.write(block)
            digest.update(block)
            check = zlib.crc32(block, check)
            left -= len(block)
    if left or check != piece.crc32:
        raise OSError(f"{path.name} is damaged")
    return digest.hexdigest()
