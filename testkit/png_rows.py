"""Read a PNG of any size in strips of rows, without holding all of it in memory."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_READ = 1 << 20


class PngError(Exception):
    """The file is not a complete 8-bit RGB PNG without interlacing."""


def _chunks(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks, IDAT chunks in pieces, and check the checksums."""
    with path.open("rb") as file:
        if file.read(len(_SIGNATURE)) != _SIGNATURE:
            raise PngError("The file is not a PNG.")
        kind = b""
        while kind != b"IEND":
            head = file.read(8)
            if len(head) < 8:
                raise PngError("The file ends before its last chunk.")
            left, kind = struct.unpack(">I4s", head)
            checksum = zlib.crc32(kind)
            while left or kind == b"IEND":
                piece = file.read(min(left, _READ))
                if len(piece) < min(left, _READ):
                    raise PngError("A chunk is cut short.")
                checksum = zlib.crc32(piece, checksum)
                left -= len(piece)
                yield kind, piece
                if not left:
                    break
            if file.read(4) != struct.pack(">I", checksum):
                raise PngError(f"The checksum of a {kind!r} chunk is wrong.")


def png_size(path: Path) -> tuple[int, int]:
    """Return width and height.

    Raises:
        PngError: the file is not 8-bit RGB without interlacing.
    """
    for kind, content in _chunks(path):
        if kind == b"IHDR":
            width, height, *form = struct.unpack(">IIBBBBB", content)
            if form != [8, 2, 0, 0, 0]:
                raise PngError(f"The file is not plain 8-bit RGB: {form}.")
            return width, height
    raise PngError("The file has no header.")


def png_strips(path: Path, rows: int) -> Iterator[Pixels]:
    """Yield the picture in strips of ``rows`` rows; the last one may have fewer.

    PNG filters refer to the row above. So each strip becomes a small PNG that begins with the last
    row of the strip before, unfiltered, and an ordinary decoder reads it.

    Raises:
        PngError: the file is damaged, incomplete, or of another kind.
    """
    width, height = png_size(path)
    stride = 1 + 3 * width
    above = bytes(stride)  # filter 0 and zeros, which the first row refers to
    inflate = zlib.decompressobj()
    held = bytearray()
    done = 0
    for kind, piece in _chunks(path):
        if kind != b"IDAT":
            continue
        try:
            held += inflate.decompress(piece)
        except zlib.error as error:
            raise PngError(f"The file's pixels are damaged: {error}.") from None
        while done < height and len(held) >= (wanted := min(rows, height - done)) * stride:
            pixels = _decoded(above + held[: wanted * stride], width, wanted + 1)[1:]
            del held[: wanted * stride]
            above = b"\0" + pixels[-1].tobytes()
            done += wanted
            yield pixels
    if done < height or held or not inflate.eof:
        raise PngError(f"The file holds {done} rows and {len(held)} bytes, not {height} rows.")


def _decoded(filtered: bytes, width: int, height: int) -> Pixels:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    file = io.BytesIO()
    file.write(_SIGNATURE)
    for kind, content in (
        (b"IHDR", header),
        (b"IDAT", zlib.compress(filtered, 0)),
        (b"IEND", b""),
    ):
        checksum = zlib.crc32(content, zlib.crc32(kind))
        file.write(struct.pack(">I4s", len(content), kind) + content + struct.pack(">I", checksum))
    file.seek(0)
    with Image.open(file, formats=["PNG"]) as image:
        return np.asarray(image)
