"""The file of a tile pyramid: the tiles' bytes, then an index of where each of them is.

The index has an entry of 12 bytes for each tile, in the order of `levels`: offset and length. A
process that decodes untrusted data writes the file, so a reader trusts no number in it.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

from upscaled import files

MAX_TILE_BYTES = 2 << 20
"""A tile of 512×512 pixels of four bytes, incompressible, takes 1.1 MB."""
_ENTRY = struct.Struct("<QI")
_PNG, _WEBP = b"\x89PNG\r\n\x1a\n", b"RIFF"


class TileFileError(Exception):
    """The file does not hold what it should."""


class TileFileWriter:
    """Writes tiles in any order; `end` writes the index.

    Args:
        file: open for writing, empty.
        count: how many tiles there will be.
    """

    def __init__(self, file: BinaryIO, count: int) -> None:
        self._file = file
        self._entries = [(0, 0)] * count
        self._length = 0

    def add(self, number: int, content: bytes) -> None:
        """Append the tile with this number."""
        self._file.write(content)
        self._entries[number] = (self._length, len(content))
        self._length += len(content)

    def end(self) -> None:
        """Append the index."""
        self._file.write(b"".join(_ENTRY.pack(*entry) for entry in self._entries))


def read_tile(path: Path, number: int, count: int) -> tuple[bytes, str]:
    """Return a tile and its media type; blocking.

    Args:
        path: the file.
        number: of the tile.
        count: how many tiles the file has.

    Raises:
        TileFileError: the file is damaged.
        OSError: it can't be read.
    """
    with open(path, "rb", opener=files.no_follow) as file:
        descriptor = file.fileno()
        index = os.fstat(descriptor).st_size - count * _ENTRY.size
        entry = (
            os.pread(descriptor, _ENTRY.size, index + number * _ENTRY.size) if index > 0 else b""
        )
        if len(entry) != _ENTRY.size:
            raise TileFileError("it is too short")
        offset, length = _ENTRY.unpack(entry)
        if not 0 < length <= MAX_TILE_BYTES or offset + length > index:
            raise TileFileError("its index is wrong")
        content = os.pread(descriptor, length, offset)
    if len(content) == length:
        if content.startswith(_PNG):
            return content, "image/png"
        if content.startswith(_WEBP):
            return content, "image/webp"
    raise TileFileError("a tile of it is no picture")
