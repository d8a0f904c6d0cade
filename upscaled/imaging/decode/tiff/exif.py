"""Builds a classic TIFF block, as used for EXIF data, from a TIFF file's descriptive tags."""

from __future__ import annotations

import struct
from collections.abc import Collection

from upscaled.errors import UnusablePictureError
from upscaled.imaging.decode.tiff.directory import (
    EXIF_DIRECTORY,
    GPS_DIRECTORY,
    INTEROPERABILITY_DIRECTORY,
    Directory,
)

_DESCRIPTIVE = frozenset(
    {
        *(270, 271, 272, 274, 282, 283, 285, 296, 305, 306, 315, 316, 33432),
        *(18246, 18249, 40091, 40092, 40093, 40094, 40095),
    }
)
"""Tags of the first directory that describe the picture: description, make, model, orientation,
resolution, software, date, artist, host, copyright, ratings, Windows' titles and keywords."""
_NESTED = (EXIF_DIRECTORY, GPS_DIRECTORY, INTEROPERABILITY_DIRECTORY)
_LONG = 4
_NARROWER = {13: (4, "I"), 16: (4, "I"), 17: (9, "i"), 18: (4, "I")}
"""BigTIFF types with 8 bytes, and their replacements in a classic file."""

_MAKER_NOTES = 0x927C
_MOVABLE = (b"Apple iOS\0", b"FUJIFILM", b"Nikon\0\x02", b"OLYMPUS\0", b"OM SYSTEM\0")
"""How notes begin whose offsets count from their own start. (Those of Fujifilm and later Nikon
cameras, of Olympus and Apple.) Others count from the start of the file."""

Tags = dict[int, tuple[int, int, bytes]]
"""Type, count and bytes of the value."""


def classic_exif(directory: Directory) -> bytes:
    """Return the descriptive tags of a page, with its EXIF and GPS tags, as a classic TIFF block.

    Values keep their bytes, and the block keeps the file's byte order. Maker notes that can't be
    moved are left out, see `loses_maker_notes`.

    Raises:
        UnusablePictureError: a value is beyond the file's end.
    """
    tags = _tags(directory, _DESCRIPTIVE)
    nested: dict[int, Tags] = {}
    for name in (EXIF_DIRECTORY, GPS_DIRECTORY):
        offset = directory.integer(name, 0)
        if offset:
            below = directory.file.directory(offset)
            nested[name] = _tags(below, below.entries.keys())
            if not _is_movable(nested[name].get(_MAKER_NOTES)):
                nested[name].pop(_MAKER_NOTES)
            deeper = below.integer(INTEROPERABILITY_DIRECTORY, 0)
            if deeper:
                last = directory.file.directory(deeper)
                nested[INTEROPERABILITY_DIRECTORY] = _tags(last, last.entries.keys())
    if not tags and not nested:
        return b""
    order = directory.file.order
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    return head + _block(tags, nested, 8, order)


def loses_maker_notes(directory: Directory) -> bool:
    """Tell whether a page has notes of a camera's maker that would be unreadable elsewhere.

    Raises:
        UnusablePictureError: the EXIF directory is beyond the file's end.
    """
    offset = directory.integer(EXIF_DIRECTORY, 0)
    if not offset:
        return False
    below = directory.file.directory(offset)
    return not _is_movable(_tags(below, {_MAKER_NOTES}).get(_MAKER_NOTES))


def _is_movable(notes: tuple[int, int, bytes] | None) -> bool:
    return notes is None or notes[2].startswith(_MOVABLE)


def _tags(directory: Directory, wanted: Collection[int]) -> Tags:
    tags: Tags = {}
    order = directory.file.order
    for tag, entry in directory.entries.items():
        if tag in _NESTED or tag not in wanted:
            continue
        kind, value = entry.type, directory.raw(tag)
        if kind in _NARROWER:
            kind, code = _NARROWER[kind]
            numbers = directory.integers(tag)
            if any(abs(number) >= 1 << 31 for number in numbers):
                raise UnusablePictureError(f"tag {tag} does not fit into EXIF data")
            value = struct.pack(f"{order}{len(numbers)}{code}", *numbers)
        tags[tag] = (kind, entry.count, value)
    return tags


def _block(tags: Tags, nested: dict[int, Tags], start: int, order: str) -> bytes:
    """Return a directory that begins at ``start``, its values, and its subdirectories."""
    here = [name for name in _NESTED if name in nested]
    if INTEROPERABILITY_DIRECTORY in here and EXIF_DIRECTORY in here:
        here.remove(INTEROPERABILITY_DIRECTORY)  # it is a subdirectory of the EXIF directory
    table = dict(tags)
    for name in here:
        table[name] = (_LONG, 1, bytes(4))
    position = start + 2 + 12 * len(table) + 4
    entries, values = b"", b""
    for tag in sorted(table):
        kind, count, value = table[tag]
        if tag in here:
            below = {n: t for n, t in nested.items() if n == INTEROPERABILITY_DIRECTORY}
            below = below if tag == EXIF_DIRECTORY else {}
            place = position + len(values)
            values += _block(nested[tag], below, place, order)
            value = struct.pack(order + "I", place)
        elif len(value) > 4:
            place = position + len(values)
            values += value + bytes(len(value) % 2)
            value = struct.pack(order + "I", place)
        entries += struct.pack(order + "HHI", tag, kind, count) + value.ljust(4, b"\x00")
    return struct.pack(order + "H", len(table)) + entries + bytes(4) + values
