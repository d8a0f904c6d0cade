"""Changes EXIF data in place: everything else keeps its bytes and offsets.

Maker notes hold offsets from the start of the block, in undocumented ways. So nothing is moved. The
new first directory, and single values, may be appended to the block. Tag names and numbers are
those of EXIF 2.32 and TIFF 6.0.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from upscaled.pictures import Size

EMPTY = b"II*\0\x08\0\0\0\0\0\0\0\0\0"
"""A block without tags."""

_MAX_ENTRIES = 4096
_SHORT, _LONG, _RATIONAL = 3, 4, 5
_LENGTHS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
"""Bytes of a value, by type."""

_WIDTH, _HEIGHT, _ORIENTATION = 0x100, 0x101, 0x112
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 0x11A, 0x11B, 0x128
_PER_INCH = {2: 1.0, 3: 2.54}
_EXIF_DIRECTORY, _GPS_DIRECTORY, _INTEROPERABILITY = 0x8769, 0x8825, 0xA005
_COLOUR_SPACE, _PIXEL_WIDTH, _PIXEL_HEIGHT = 0xA001, 0xA002, 0xA003
_FOCAL_PLANE = (0xA20E, 0xA20F)
_RELATED_WIDTH, _RELATED_HEIGHT = 0x1001, 0x1002
_THUMBNAIL, _THUMBNAIL_LENGTH = 0x201, 0x202
_SRGB, _UNCALIBRATED = 1, 0xFFFF

_OF_THE_FILE = frozenset(
    {
        *(0xFE, 0xFF, 0x102, 0x103, 0x106, 0x10A, 0x111, 0x115, 0x116, 0x117, 0x11C, 0x13D),
        *(0x140, 0x142, 0x143, 0x144, 0x145, 0x14A, 0x152, 0x153, 0x15B, 0x200, 0x201, 0x202),
        *(0x211, 0x212, 0x213, 0x214, 700, 33723, 34377, 34675),
    }
)
"""Tags of the first directory that describe how the old file stored its pixels."""


class ExifError(Exception):
    """The block is not a TIFF structure with a readable first directory."""


@dataclass(frozen=True)
class _Entry:
    tag: int
    type: int
    count: int
    value: bytes
    """Four bytes: the value, or its offset."""
    place: int
    """Position of the entry in the block."""


class _Block:
    """A TIFF structure that is being changed."""

    def __init__(self, content: bytes) -> None:
        self.content = bytearray(content)
        marks = {b"II*\0": "<", b"MM\0*": ">"}
        order = marks.get(bytes(self.content[:4]))
        if order is None or len(content) < 14:
            raise ExifError
        self.order = order

    def integer(self, kind: str, place: int) -> int:
        try:
            value: int = struct.unpack_from(self.order + kind, self.content, place)[0]
        except struct.error:
            raise ExifError from None
        return value

    def put(self, kind: str, place: int, *values: int) -> None:
        struct.pack_into(self.order + kind, self.content, place, *values)

    def directory(self, place: int) -> tuple[list[_Entry], int]:
        """Return the entries of a directory and the position of the next directory's offset."""
        count = self.integer("H", place)
        end = place + 2 + 12 * count
        if place < 8 or count > _MAX_ENTRIES or end > len(self.content):
            raise ExifError
        entries = []
        for at in range(place + 2, end, 12):
            tag, kind, number = struct.unpack_from(self.order + "HHI", self.content, at)
            entries.append(_Entry(tag, kind, number, bytes(self.content[at + 8 : at + 12]), at))
        return entries, end

    def below(self, entries: list[_Entry], tag: int) -> list[_Entry]:
        """Return the entries of the directory that ``tag`` points to; none if it is broken."""
        for entry in entries:
            if entry.tag == tag:
                try:
                    return self.directory(struct.unpack(self.order + "I", entry.value)[0])[0]
                except ExifError:
                    return []
        return []

    def append(self, content: bytes) -> bytes:
        """Append bytes; return their offset as an entry stores it."""
        self.content += bytes(len(self.content) % 2)
        offset = struct.pack(self.order + "I", len(self.content))
        self.content += content
        return offset

    def small(self, entry: _Entry) -> int | None:
        """Return the value of an entry that holds one SHORT or LONG."""
        if entry.count != 1 or entry.type not in (_SHORT, _LONG):
            return None
        kind = "H" if entry.type == _SHORT else "I"
        return int(struct.unpack_from(self.order + kind, entry.value)[0])

    def rational(self, entry: _Entry) -> Fraction | None:
        """Return the value of an entry that holds one RATIONAL."""
        if entry.count != 1 or entry.type != _RATIONAL:
            return None
        place = struct.unpack(self.order + "I", entry.value)[0]
        if place + 8 > len(self.content):
            return None
        above, below = struct.unpack_from(self.order + "II", self.content, place)
        return Fraction(above, below) if below else None

    def new_rational(self, value: Fraction) -> bytes | None:
        """Append a RATIONAL; return its offset, or None if the value is too large."""
        near = value.limit_denominator(10_000)
        if not 0 < near.numerator < 1 << 32:
            return None
        pair = struct.pack(self.order + "II", near.numerator, near.denominator)
        return self.append(pair)

    def set_long(self, entry: _Entry, value: int) -> None:
        self.put("HHII", entry.place, entry.tag, _LONG, 1, value)

    def set_short(self, entry: _Entry, value: int) -> None:
        self.put("HHIHH", entry.place, entry.tag, _SHORT, 1, value, 0)

    def used(self, entries: list[_Entry]) -> Iterator[tuple[int, int]]:
        """Yield the ranges of values that do not fit into their entries."""
        for entry in entries:
            length = _LENGTHS.get(entry.type, 1) * entry.count
            if length > 4:
                place = struct.unpack(self.order + "I", entry.value)[0]
                yield place, place + length


def resolution(exif: bytes) -> tuple[float, float] | None:
    """Return an EXIF block's resolution in pixels per inch, horizontal and vertical; None without
    one.

    Raises:
        ExifError: it is broken.
    """
    block = _Block(exif)
    entries = {entry.tag: entry for entry in block.directory(block.integer("I", 4))[0]}
    if _X_RESOLUTION not in entries or _Y_RESOLUTION not in entries:
        return None
    across = block.rational(entries[_X_RESOLUTION])
    down = block.rational(entries[_Y_RESOLUTION])
    unit = block.small(entries[_RESOLUTION_UNIT]) if _RESOLUTION_UNIT in entries else 2
    if not across or not down or unit not in _PER_INCH:
        return None
    return float(across) * _PER_INCH[unit], float(down) * _PER_INCH[unit]


def has_thumbnail(exif: bytes) -> bool:
    """Tell whether there is a second directory, which describes a thumbnail.

    Raises:
        ExifError: the block is broken.
    """
    block = _Block(exif)
    _, end = block.directory(block.integer("I", 4))
    return end + 4 <= len(exif) and block.integer("I", end) != 0


def patched(
    exif: bytes,
    size: Size,
    scale: tuple[float, float],
    *,
    turned: bool = False,
    srgb: bool = True,
    dpi: tuple[float, float] | None = None,
) -> bytes:
    """Return ``exif`` for a picture that was oriented and enlarged.

    Args:
        exif: a TIFF structure.
        size: of the result in pixels.
        scale: result pixels for each pixel of the oriented source, horizontal and vertical.
        turned: width and height were swapped.
        srgb: the result is in sRGB; otherwise it has a profile.
        dpi: the result's resolution, added if the block has none.

    Returns:
        The block: orientation, sizes, resolution and colour space are right, the thumbnail is
        gone, and so are tags about how the old file held its pixels.

    Raises:
        ExifError: the block is broken.
    """
    block = _Block(exif)
    first = block.integer("I", 4)
    entries, end = block.directory(first)
    details = block.below(entries, _EXIF_DIRECTORY)
    others = block.below(entries, _GPS_DIRECTORY) + block.below(details, _INTEROPERABILITY)
    _drop_thumbnail(block, first, [*entries, *details, *others], end)
    for entry in [*details, *others]:
        if entry.tag in (_PIXEL_WIDTH, _RELATED_WIDTH):
            block.set_long(entry, size.width)
        elif entry.tag in (_PIXEL_HEIGHT, _RELATED_HEIGHT):
            block.set_long(entry, size.height)
        elif entry.tag == _COLOUR_SPACE:
            block.set_short(entry, _SRGB if srgb else _UNCALIBRATED)
    across, _ = scale
    for entry in details:
        value = block.rational(entry) if entry.tag in _FOCAL_PLANE else None
        if value:
            offset = block.new_rational(value * Fraction(across))
            if offset is not None:
                block.content[entry.place + 8 : entry.place + 12] = offset
    _write_first(block, first, entries, _first(block, entries, size, scale, turned, dpi))
    return bytes(block.content)


_New = dict[int, tuple[int, int, bytes]]
"""Type, count and four bytes of value by tag."""


def _first(
    block: _Block,
    entries: list[_Entry],
    size: Size,
    scale: tuple[float, float],
    turned: bool,
    dpi: tuple[float, float] | None,
) -> _New:
    """Return the entries of the new first directory."""
    order = block.order
    found = {entry.tag: entry for entry in entries}
    new = {e.tag: (e.type, e.count, e.value) for e in entries if e.tag not in _OF_THE_FILE}
    if _ORIENTATION in new:
        new[_ORIENTATION] = (_SHORT, 1, struct.pack(order + "HH", 1, 0))
    for tag, side in ((_WIDTH, size.width), (_HEIGHT, size.height)):
        if tag in new:
            new[tag] = (_LONG, 1, struct.pack(order + "I", side))
    tags = (_X_RESOLUTION, _Y_RESOLUTION)
    old = [block.rational(found[tag]) if tag in found else None for tag in tags]
    values: list[Fraction] = []
    if old[0] and old[1]:
        pair = (old[1], old[0]) if turned else (old[0], old[1])
        values = [v * Fraction(s) for v, s in zip(pair, scale, strict=True)]
    elif dpi is not None:
        values = [Fraction(v) for v in dpi]
        new[_RESOLUTION_UNIT] = (_SHORT, 1, struct.pack(order + "HH", 2, 0))
    for tag, value in zip(tags, values, strict=False):
        offset = block.new_rational(value)
        if offset is not None:
            new[tag] = (_RATIONAL, 1, offset)
    return new


def _write_first(block: _Block, first: int, entries: list[_Entry], new: _New) -> None:
    """Write the first directory: in its old place if it fits, otherwise at the end."""
    table = struct.pack(block.order + "H", len(new))
    for tag, (kind, count, value) in sorted(new.items()):
        table += struct.pack(block.order + "HHI", tag, kind, count) + value
    table += bytes(4)  # no next directory
    room = 6 + 12 * len(entries)
    if len(table) <= room and first + room <= len(block.content):
        block.content[first : first + room] = table.ljust(room, b"\0")
    else:
        block.content[4:8] = block.append(table)


def _drop_thumbnail(block: _Block, first: int, entries: list[_Entry], end: int) -> None:
    """Remove the bytes of a JPEG thumbnail, unless they contain other data."""
    if end + 4 > len(block.content):
        return
    try:
        second, _ = block.directory(block.integer("I", end))
    except ExifError:
        return
    found = {entry.tag: block.small(entry) for entry in second}
    start, length = found.get(_THUMBNAIL), found.get(_THUMBNAIL_LENGTH)
    if not start or not length or start < end + 4 or start + length > len(block.content):
        return
    used = [(0, end + 4), (first, end), *block.used(entries)]
    used += [(entry.place, entry.place + 12) for entry in entries]
    if any(begin < start + length and start < stop for begin, stop in used):
        return
    if start + length == len(block.content):
        del block.content[start:]
    else:
        block.content[start : start + length] = bytes(length)
