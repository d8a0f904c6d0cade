"""A second look at the coded pixels of a JPEG: libjpeg-turbo's warnings, which Pillow drops.

It can't find all damage: after about half of the wrong bytes, a decoder synchronises again without
meeting an invalid code.
"""

from __future__ import annotations

import re
import struct

import simplejpeg

from upscaled.formats import JPEG
from upscaled.imaging.decode.refusals import broken

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
_START, _END = b"\xff\xd8", b"\xff\xd9"
_START_OF_SCAN = 0xDA
_NEEDED = frozenset({*range(0xC0, 0xD0), _START_OF_SCAN, 0xDB, 0xDD})
"""Segments that decoding needs: frames, tables, restart interval, scans."""
_WRONG = ("bad Huffman code", "bad arithmetic code", "premature end of data segment",
          "found marker")  # fmt: skip
_SURPLUS = re.compile("([0-9]+) extraneous bytes before marker")


def check_coded_pixels(content: bytes) -> str:
    """Return a note about bytes that belong to no pixel; empty if there are none.

    An encoder may have written them, or a damaged byte before them made the decoder lose
    synchronisation. Only the first warning can be seen, and the decoder reads some bytes ahead,
    which it does not count.

    Raises:
        UnusablePictureError: pixels are wrong.
    """
    plain = _scans_alone(content)
    if plain is None:
        return ""
    try:
        space = simplejpeg.decode_jpeg_header(plain)[2]
        simplejpeg.decode_jpeg(
            plain,
            # One channel of an eighth of the size: little is done beyond reading the codes.
            colorspace="CMYK" if space in {"CMYK", "YCCK"} else "GRAY",
            fastdct=True,
            min_height=1,
            min_width=1,
            min_factor=8,
            strict=True,
        )
    except ValueError as error:
        if any(words in str(error) for words in _WRONG):
            raise broken(JPEG, "its coded pixels") from error
        if surplus := _SURPLUS.search(str(error)):
            return f"pixels, perhaps: {surplus[1]} or more of the file's bytes belong to none"
    return ""


def _scans_alone(content: bytes) -> bytes | None:
    """Return the picture without metadata and rubbish, which have warnings of their own."""
    parts, at = [_START], 2
    while found := _MARKER.search(content, at):
        marker, begin = content[found.start() + 1], found.end()
        if marker == _END[1]:
            return b"".join([*parts, _END])
        if marker in {0x01, _START[1]} or begin + 2 > len(content):
            at = begin
            continue
        (length,) = struct.unpack_from(">H", content, begin)
        at = begin + length
        if marker == _START_OF_SCAN:
            following = _MARKER.search(content, at)
            at = len(content) if following is None else following.start()
        if marker in _NEEDED:
            parts.append(content[found.start() : at])
    return None
