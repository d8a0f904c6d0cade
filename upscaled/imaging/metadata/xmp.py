"""XMP packets: changes the few properties that describe pixels; everything else keeps its bytes."""

from __future__ import annotations

import re

from upscaled.pictures import Size

_PROPERTY = rb"""(<?\b%s(?:\s*=\s*["']|\s*>\s*))(\d+(?:/\d+)?)"""
_ORIENTATION = re.compile(_PROPERTY % rb"tiff:Orientation")
_SIZES = (
    (re.compile(_PROPERTY % rb"(?:tiff:ImageWidth|exif:PixelXDimension)"), 0),
    (re.compile(_PROPERTY % rb"(?:tiff:ImageLength|exif:PixelYDimension)"), 1),
)
_RESOLUTIONS = (
    (re.compile(_PROPERTY % rb"tiff:XResolution"), 0),
    (re.compile(_PROPERTY % rb"tiff:YResolution"), 1),
)


def patched(xmp: bytes, size: Size, scale: tuple[float, float], *, turned: bool = False) -> bytes:
    """Return a packet for a picture of ``size`` whose orientation was applied.

    Packets that are not UTF-8 stay unchanged.

    Args:
        xmp: the packet.
        size: of the result in pixels.
        scale: result pixels for each pixel of the oriented source, horizontal and vertical.
        turned: width and height were swapped.
    """
    xmp = _ORIENTATION.sub(rb"\g<1>1", xmp)
    for pattern, axis in _SIZES:
        side = (size.width, size.height)[axis]
        xmp = pattern.sub(rb"\g<1>%d" % side, xmp)
    found = [pattern.search(xmp) for pattern, _ in _RESOLUTIONS]
    values = [None if match is None else _number(match[2]) for match in found]
    if values[0] and values[1]:
        pair = reversed(values) if turned else values
        for (pattern, axis), value in zip(_RESOLUTIONS, pair, strict=True):
            new = round((value or 0) * scale[axis] * 1000)
            xmp = pattern.sub(rb"\g<1>%d/1000" % new, xmp)
    return xmp


def _number(text: bytes) -> float:
    above, _, below = text.partition(b"/")
    return int(above[:12]) / (int(below[:12] or b"1") or 1)
