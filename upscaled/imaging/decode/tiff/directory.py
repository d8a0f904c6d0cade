"""The directories of a TIFF file: its tags, classic or BigTIFF, in either byte order.

Tag and type numbers are from TIFF 6.0 and its supplements.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from upscaled.formats import TIFF
from upscaled.imaging.decode.refusals import broken, cut_off

_MAX_ENTRIES = 4096
_MAX_VALUE_BYTES = 32 << 20
_TYPE_CODES = {
    1: "B", 2: "s", 3: "H", 4: "I", 5: "II", 6: "b", 7: "s", 8: "h", 9: "i", 10: "ii",
    11: "f", 12: "d", 13: "I", 16: "Q", 17: "q", 18: "Q",
}  # fmt: skip
_RATIONALS = frozenset({5, 10})

WIDTH, HEIGHT = 256, 257
NEW_SUBFILE_TYPE = 254
PHOTOMETRIC = 262
ORIENTATION = 274
XMP, ICC_PROFILE, IPTC, PHOTOSHOP = 700, 34675, 33723, 34377
EXIF_DIRECTORY, GPS_DIRECTORY, INTEROPERABILITY_DIRECTORY = 34665, 34853, 40965
DNG_VERSION = 50706


@dataclass(frozen=True)
class TagEntry:
    """One tag: its type, its number of values, and the position of their bytes in the file."""

    type: int
    count: int
    offset: int

    @property
    def length(self) -> int:
        """Bytes of the value."""
        return self.count * struct.calcsize("=" + _TYPE_CODES[self.type])


@dataclass(frozen=True)
class Directory:
    """The tags of one page."""

    file: TiffFile
    entries: dict[int, TagEntry]
    following: int
    """Offset of the next directory; 0: none."""

    def raw(self, tag: int) -> bytes:
        """Return the bytes of a tag's value as the file has them; empty without the tag.

        Raises:
            UnusablePictureError: they are beyond the file's end.
        """
        entry = self.entries.get(tag)
        if entry is None:
            return b""
        if entry.length > _MAX_VALUE_BYTES:
            raise broken(TIFF, f"tag {tag} has {entry.length} bytes")
        return self.file.read(entry.offset, entry.length, f"tag {tag}")

    def numbers(self, tag: int) -> tuple[float, ...]:
        """Return a tag's numbers, rationals as quotients; none without the tag."""
        entry = self.entries.get(tag)
        if entry is None:
            return ()
        code = _TYPE_CODES[entry.type]
        if code == "s":
            return tuple(self.raw(tag))
        values = struct.unpack(
            f"{self.file.order}{entry.count * len(code)}{code[0]}", self.raw(tag)
        )
        if entry.type in _RATIONALS:
            pairs = zip(values[::2], values[1::2], strict=True)
            return tuple(above / below if below else 0.0 for above, below in pairs)
        return values

    def integers(self, tag: int) -> tuple[int, ...]:
        """Return a tag's values as integers; none without the tag."""
        return tuple(int(value) for value in self.numbers(tag))

    def integer(self, tag: int, default: int) -> int:
        """Return a tag's first value, or ``default``."""
        values = self.integers(tag)
        return values[0] if values else default


class TiffFile:
    """A TIFF file, open for reading. Use it as a context manager.

    Raises:
        UnusablePictureError: its header is broken.
    """

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("rb")
        try:
            self.length = os.fstat(self._file.fileno()).st_size
            head = self.read(0, 8, "header")
            self.order = "<" if head[:2] == b"II" else ">"
            self.big = struct.unpack(self.order + "H", head[2:4])[0] == 43
            offset = self.read(8, 8, "header") if self.big else head[4:]
            (self._first,) = struct.unpack(self.order + ("Q" if self.big else "I"), offset)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> TiffFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def read(self, offset: int, length: int, what: str) -> bytes:
        """Return ``length`` bytes from ``offset`` on; ``what`` names them in the error.

        Raises:
            UnusablePictureError: the file ends before.
        """
        if offset + length > self.length:
            raise cut_off(TIFF, f"{what} is not all there")
        self._file.seek(offset)
        return self._file.read(length)

    def directories(self) -> Iterator[Directory]:
        """Yield the pages in their order; stop if the chain loops.

        Raises:
            UnusablePictureError: a directory is broken.
        """
        seen, offset = set[int](), self._first
        if offset == 0:
            raise broken(TIFF, "it has no page")
        while offset and offset not in seen:
            seen.add(offset)
            found = self.directory(offset)
            yield found
            offset = found.following

    def directory(self, offset: int) -> Directory:
        """Return the directory at ``offset``.

        Raises:
            UnusablePictureError: it is broken.
        """
        counter, entry, width = ("Q", "HHQ", 8) if self.big else ("H", "HHI", 4)
        head = struct.Struct(self.order + counter)
        (count,) = head.unpack(self.read(offset, head.size, "directory"))
        if not 0 < count <= _MAX_ENTRIES:
            raise broken(TIFF, f"the directory at byte {offset} has {count} tags")
        form = struct.Struct(self.order + entry)
        size = form.size + width
        start = offset + head.size
        table = self.read(start, count * size, "directory")
        entries: dict[int, TagEntry] = {}
        for index in range(count):
            tag, type_, number = form.unpack_from(table, index * size)
            if type_ not in _TYPE_CODES:
                continue  # TIFF 6.0, page 16: readers skip types they do not know
            found = TagEntry(type_, number, start + index * size + form.size)
            if found.length > width:
                (place,) = struct.unpack_from(
                    self.order + ("Q" if self.big else "I"), table, index * size + form.size
                )
                found = TagEntry(type_, number, place)
            entries.setdefault(tag, found)
        end = start + count * size
        following = 0
        if end + width <= self.length:
            (following,) = struct.unpack(
                self.order + ("Q" if self.big else "I"), self.read(end, width, "directory")
            )
        return Directory(self, entries, following)
