"""IPTC records in Photoshop's image resources, and those in JPEG and PNG files."""

from __future__ import annotations

import struct
import zlib

_SIGNATURE = b"8BIM"
_IPTC = 0x0404
_KNOWN = frozenset({_IPTC, 0x03ED, 0x0425, 0x0409, 0x040C, 0x0422, 0x0423, 0x0424, 0x040F})
"""IPTC, and resources that are handled elsewhere: resolution, digest, thumbnails, EXIF, XMP and
profile."""
_MAX_RESOURCES = 1000


def split(resources: bytes) -> tuple[bytes, bool]:
    """Return the IPTC records in Photoshop's resources, and whether there are other resources.

    A resource that is broken counts as another one.
    """
    records, others, place = b"", False, 0
    for _ in range(_MAX_RESOURCES):
        if resources[place : place + 4] != _SIGNATURE or place + 12 > len(resources):
            break
        number = struct.unpack_from(">H", resources, place + 4)[0]
        place += 6 + (resources[place + 6] + 2) // 2 * 2  # a name, padded to an even length
        if place + 4 > len(resources):
            break
        length = struct.unpack_from(">I", resources, place)[0]
        if place + 4 + length > len(resources):
            return records, True
        if number == _IPTC:
            records = resources[place + 4 : place + 4 + length]
        elif number not in _KNOWN:
            others = True
        place += 4 + length + length % 2
    return records, others


def joined(records: bytes) -> bytes:
    """Return Photoshop resources that hold only IPTC records."""
    head = _SIGNATURE + struct.pack(">HHI", _IPTC, 0, len(records))
    return head + records + bytes(len(records) % 2)


def raw_profile(name: bytes, content: bytes) -> bytes:
    """Return a PNG's zTXt content in the form that ExifTool and ImageMagick read: hexadecimal
    lines.
    """
    text = content.hex().encode()
    lines = b"\n".join(text[i : i + 72] for i in range(0, len(text), 72))
    body = b"\n%s\n%8d\n%s\n" % (name, len(content), lines)
    return b"Raw profile type %s\0\0" % name + zlib.compress(body)


def from_raw_profile(text: bytes) -> bytes:
    """Return the content of a "Raw profile" text; nothing if it is broken."""
    parts = text.strip().split(None, 2)
    if len(parts) != 3 or not parts[1].isdigit():
        return b""
    try:
        content = bytes.fromhex("".join(parts[2].decode("ascii").split()))
    except ValueError:
        return b""
    return content if len(content) == int(parts[1][:9]) else b""
