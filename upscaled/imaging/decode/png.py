"""The chunks of a PNG file, read before its pixels (PNG specification, section 5)."""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from upscaled.formats import PNG
from upscaled.imaging.decode.refusals import broken, cut_off

_SIGNATURE_BYTES = 8
_MAX_CHUNKS = 100_000
"""An encoder that flushes every 4 KiB makes so many of 400 MB."""
_PIECE_BYTES = 1 << 20
_ANCILLARY = 0x20
"""Bit of a chunk name's first letter."""


@dataclass(frozen=True)
class PngChunks:
    """What a look at all chunks found."""

    grey: bool
    """The colour type is grey, or grey with alpha."""
    depth: int
    exif: bytes
    damaged: tuple[tuple[str, int, int], ...]
    """Ancillary chunks with a wrong checksum: name, offset and length in the file."""
    has_end: bool


def read_chunks(path: Path, most_exif: int) -> PngChunks:
    """Read the chunks of the file at ``path`` and compare their checksums.

    Args:
        path: the file.
        most_exif: bytes of EXIF data from which on it is not kept, but for one byte more.

    Raises:
        UnusablePictureError: the file is cut off, or a chunk that matters is broken.
    """
    damaged: list[tuple[str, int, int]] = []
    exif, header = b"", b""
    counts: dict[str, int] = {}
    with path.open("rb") as file:
        offset = _SIGNATURE_BYTES
        for _ in range(_MAX_CHUNKS):
            file.seek(offset)
            head = file.read(8)
            if len(head) < 8:
                if "IDAT" not in counts or head:
                    raise cut_off(PNG)
                return _found(header, exif, damaged, has_end=False)
            length, name = int.from_bytes(head[:4], "big"), head[4:]
            text = name.decode("latin-1")
            counts[text] = counts.get(text, 0) + 1
            keep = {b"IHDR": 25, b"eXIf": most_exif + 1}.get(name, 0)
            content, check = _checked(file, name, length, keep, text)
            if check is False:
                if not name[0] & _ANCILLARY:
                    number = f" {counts[text]}" if name == b"IDAT" else ""
                    raise broken(PNG, f"the checksum of chunk {text}{number} is wrong")
                damaged.append((text, offset, length + 12))
            elif name == b"eXIf":
                exif = content
            elif name == b"IHDR":
                header = content
            if name == b"IEND":
                return _found(header, exif, damaged, has_end=True)
            offset += length + 12
    raise broken(PNG, f"it has more than {_MAX_CHUNKS} chunks")


def without(path: Path, parts: tuple[tuple[str, int, int], ...]) -> io.BytesIO:
    """Return the file without ``parts`` of it."""
    made, at = io.BytesIO(), 0
    with path.open("rb") as file:
        for _, offset, length in parts:
            made.write(file.read(offset - at))
            file.seek(length, 1)
            at = offset + length
        made.write(file.read())
    made.seek(0)
    return made


def _found(
    header: bytes, exif: bytes, damaged: list[tuple[str, int, int]], *, has_end: bool
) -> PngChunks:
    if len(header) != 13:
        raise broken(PNG, "chunk IHDR")
    return PngChunks(not header[9] & 0b11, header[8], exif, tuple(damaged), has_end)


def _checked(file: BinaryIO, name: bytes, length: int, keep: int, text: str) -> tuple[bytes, bool]:
    """Return up to ``keep`` bytes of a chunk, and whether its checksum is right.

    Raises:
        UnusablePictureError: the file ends in the middle of it.
    """
    check, left, kept = zlib.crc32(name), length, b""
    while left:
        piece = file.read(min(left, _PIECE_BYTES))
        if not piece:
            raise cut_off(PNG, f"in chunk {text}")
        check = zlib.crc32(piece, check)
        kept += piece[: max(0, keep - len(kept))]
        left -= len(piece)
    told = file.read(4)
    if len(told) < 4:
        raise cut_off(PNG, f"in chunk {text}")
    return kept, check == int.from_bytes(told, "big")
