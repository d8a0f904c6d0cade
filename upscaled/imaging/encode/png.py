"""Encodes PNG files a strip at a time, strips in parallel if needed.

Every strip is a run of separate deflate blocks, so strips are independent. Another process can
continue a file, and the whole picture is never in memory. ISA-L's compressor with the filter "up"
takes a twelfth of libpng's time and makes slightly smaller files (docs/performance.md).
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from upscaled.errors import EngineError
from upscaled.formats import PNG
from upscaled.imaging.encode.encoder import EncodedStrip
from upscaled.imaging.metadata.attached import Attached
from upscaled.imaging.raw import Pixels
from upscaled.pictures import Size

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}  # by channels; PNG specification, 11.2.1
_NO_FILTER, _UP = 0, 2
_LEVEL = 1
_RAW_DEFLATE = -15
_ZLIB_HEADER = b"\x78\x01"  # deflate, 32 KiB window, fastest (RFC 1950)
_LAST_BLOCK = b"\x03\x00"  # empty, marked as the last (RFC 1951)
_ADLER_BASE = 65521


class PngEncoder:
    """Makes the parts of a PNG file of ``size`` with 1 to 4 ``channels`` (see `StripEncoder`)."""

    multiple = PNG.strip_rows
    start = 1  # of an Adler-32

    def __init__(self, size: Size, channels: int, attached: Attached) -> None:
        self._size = size
        self._channels = channels
        self._attached = attached

    def head(self) -> bytes:
        width, height = self._size.width, self._size.height
        header = struct.pack(
            ">IIBBBBB", width, height, 8, _COLOUR_TYPE[self._channels], 0, 0, 0
        )  # fmt: skip
        parts = [_SIGNATURE, chunk(b"IHDR", header)]
        if self._attached.icc:
            parts.append(chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(self._attached.icc)))
        parts += [chunk(name, content) for name, content in self._attached.png_chunks()]
        parts.append(chunk(b"IDAT", _ZLIB_HEADER))
        return b"".join(parts)

    def strip(self, pixels: Pixels, top: int) -> EncodedStrip:
        """Encode ``pixels``, rows × columns × channels, which begin at row ``top``.

        Raises:
            EngineError: what comes out of it by another library is not what went in.
        """
        filtered = _filtered(pixels)
        packer = isal_zlib.compressobj(_LEVEL, wbits=_RAW_DEFLATE)
        packed = packer.compress(filtered.data) + packer.flush(isal_zlib.Z_FULL_FLUSH)
        found = zlib.decompressobj(_RAW_DEFLATE).decompress(packed)
        if not np.array_equal(np.frombuffer(found, np.uint8), filtered.ravel()):
            raise EngineError(f"The PNG's rows from {top} on do not unpack to what was packed.")
        return EncodedStrip(chunk(b"IDAT", packed), zlib.adler32(filtered.data), filtered.size)

    def opened(self, strip: EncodedStrip, top: int, bottom: int) -> Pixels:
        """Return the pixels of rows ``top`` to ``bottom``, which are encoded in ``strip``.

        Raises:
            EngineError: it does not hold them.
        """
        row_bytes = 1 + self._size.width * self._channels
        packed = strip.content[8:-4]
        packer = zlib.decompressobj(_RAW_DEFLATE)
        try:
            found = packer.decompress(packed, (bottom - top) * row_bytes + 1)
        except zlib.error as error:
            raise EngineError(f"The PNG's rows from {top} on do not unpack: {error}.") from error
        if (
            strip.content != chunk(b"IDAT", packed)
            or len(found) != (bottom - top) * row_bytes
            or (zlib.adler32(found), len(found)) != (strip.check, strip.length)
            or packer.unconsumed_tail
        ):
            raise EngineError(f"The PNG's rows from {top} on are not whole.")
        rows = np.frombuffer(found, np.uint8).reshape(bottom - top, row_bytes)
        if rows[0, 0] != _NO_FILTER or (rows[1:, 0] != _UP).any():
            raise EngineError(f"The PNG's rows from {top} on have another filter.")
        pixels = np.add.accumulate(rows[:, 1:], axis=0, dtype=np.uint8)
        return pixels.reshape(bottom - top, self._size.width, self._channels)

    def joined(self, state: int, strip: EncodedStrip) -> int:
        """Return the state after a strip: the Adler-32 of all data compressed so far.

        RFC 1950 defines two sums: one of all bytes, which starts at 1, and one of all values of the
        first sum.
        """
        low = (state & 0xFFFF) + (strip.check & 0xFFFF) - 1
        high = (state >> 16) + (strip.check >> 16) + strip.length * ((state & 0xFFFF) - 1)
        return high % _ADLER_BASE << 16 | low % _ADLER_BASE

    def tail(self, state: int) -> bytes:
        end = _LAST_BLOCK + struct.pack(">I", state)
        return chunk(b"IDAT", end) + chunk(b"IEND", b"")


def _filtered(pixels: Pixels) -> NDArray[np.uint8]:
    """Return rows as they are compressed: the first as it is, others as differences to the row
    above.
    """
    height, width, channels = pixels.shape
    rows = np.ascontiguousarray(pixels).reshape(height, width * channels)
    filtered = np.empty((height, 1 + width * channels), np.uint8)
    filtered[0, 0], filtered[1:, 0] = _NO_FILTER, _UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    return filtered


def small_png(pixels: Pixels) -> bytes:
    """Return pixels, rows × columns × channels, as a PNG file without metadata."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPE[channels], 0, 0, 0)
    packed = isal_zlib.compress(_filtered(pixels).data, _LEVEL)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", packed), chunk(b"IEND", b"")]
    return _SIGNATURE + b"".join(parts)


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG with its checksum."""
    check = zlib.crc32(content, zlib.crc32(kind))
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)
