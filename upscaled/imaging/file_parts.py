"""The parts of picture files: chunks of a PNG, segments of a JPEG.

Each loop is bounded: decoders take microseconds for every part, and a part can be a few bytes long.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from upscaled.errors import UnusablePictureError

_MAX_PARTS = 10_000
"""Not counting parts with pixels. Published files have some hundreds at most."""
_MAX_PIXEL_PARTS = 1_000_000
_MAX_FILL_BYTES = 1 << 16
"""Between two segments of a JPEG."""


class FilePart(NamedTuple):
    name: bytes
    """Type of the chunk, or marker of the segment."""
    offset: int
    """Position of the content, in bytes from the start of the file."""
    length: int
    """Bytes of the content."""


class TooManyPartsError(UnusablePictureError):
    """A file has more parts than any real one."""


def png_chunks(file: BinaryIO) -> Iterator[FilePart]:
    """Yield the chunks of a PNG up to its end, or to where the file is cut off.

    Raises:
        TooManyPartsError: there are more than any real file has.
    """
    place, others, pixels = 8, 0, 0
    while True:
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            return
        name, length = head[4:], int.from_bytes(head[:4], "big")
        if name == b"IDAT":
            pixels += 1
        else:
            others += 1
        if others > _MAX_PARTS or pixels > _MAX_PIXEL_PARTS:
            raise TooManyPartsError(
                f"image decode failed: the PNG file has more than {_MAX_PARTS} chunks; "
                "save it again without them."
            )
        yield FilePart(name, place + 8, length)
        if name == b"IEND":
            return
        place += length + 12


def jpeg_segments(file: BinaryIO) -> Iterator[FilePart]:
    """Yield the segments of a JPEG that come before its pixels.

    Raises:
        TooManyPartsError: there are more than any real file has.
    """
    place, count = 2, 0
    while True:
        file.seek(place)
        head = file.read(_MAX_FILL_BYTES)
        fill = len(head) - len(head.lstrip(b"\xff"))
        if fill == 0 or fill >= len(head):  # no marker, or only fill bytes
            if fill == _MAX_FILL_BYTES:
                raise TooManyPartsError(
                    "image decode failed: the JPEG file has no picture among its first bytes."
                )
            return
        marker = head[fill]
        place += fill + 1
        if marker in (0xD9, 0xDA) or marker == 0:  # end, or start of the pixels
            return
        if 0xD0 <= marker <= 0xD8 or marker == 1:  # without content
            yield FilePart(bytes((marker,)), place, 0)
        else:
            file.seek(place)
            length = int.from_bytes(file.read(2), "big")
            if length < 2:
                return
            yield FilePart(bytes((marker,)), place + 2, length - 2)
            place += length
        count += 1
        if count > _MAX_PARTS:
            raise TooManyPartsError(
                f"image decode failed: the JPEG file has more than {_MAX_PARTS} segments; "
                "save it again without them."
            )
