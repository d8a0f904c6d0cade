"""Decodes a PNG a strip at a time.

A strip of filtered rows becomes a small PNG of its own: it begins with the row above, which the
filters of its first row refer to. So Pillow's decoder does the work, and memory holds one strip.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from isal import isal_zlib
from PIL import Image

from upscaled.formats import PNG
from upscaled.imaging.decode.refusals import cut_off
from upscaled.imaging.encode.png import chunk
from upscaled.imaging.file_parts import png_chunks

_STRIP_BYTES = 8 << 20
_PIECE_BYTES = 1 << 20
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by colour type; PNG specification, 11.2.1
_NOT_PACKED = 0


def png_strips(path: Path) -> Iterator[Image.Image] | None:
    """Return the strips of a PNG of 8 bits a sample; None if it is interlaced or has a palette."""
    with path.open("rb") as file:
        file.seek(16)
        head = file.read(13)
    if len(head) < 13:
        return None
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", head)
    if depth != 8 or colour not in _CHANNELS or interlaced:
        return None
    return _strips(path, width, height, colour)


def _strips(path: Path, width: int, height: int, colour: int) -> Iterator[Image.Image]:
    channels = _CHANNELS[colour]
    row_bytes = 1 + width * channels
    strip_rows = max(1, _STRIP_BYTES // row_bytes)
    above = bytes(row_bytes)  # of the first row: zeros (PNG specification, 9.2)
    waiting, done = bytearray(), 0
    for piece in _unpacked(path):
        waiting += piece
        while done < height:
            rows = min(strip_rows, height - done)
            if len(waiting) < rows * row_bytes:
                break
            strip = _decoded(width, rows, colour, above, bytes(waiting[: rows * row_bytes]))
            del waiting[: rows * row_bytes]
            done += rows
            above = b"\0" + np.asarray(strip)[-1].tobytes()
            yield strip
        if done == height:
            return
    raise cut_off(PNG, f"the pixels end after {done} of {height} rows")


def _decoded(width: int, rows: int, colour: int, above: bytes, filtered: bytes) -> Image.Image:
    header = struct.pack(">IIBBBBB", width, rows + 1, 8, colour, 0, 0, 0)
    packed = zlib.compress(above + filtered, _NOT_PACKED)
    content = _SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        image.load()
        return image.crop((0, 1, width, rows + 1))


def _unpacked(path: Path) -> Iterator[bytes]:
    """Yield the decompressed content of the IDAT chunks, a piece at a time."""
    unpacker = isal_zlib.decompressobj()
    with path.open("rb") as file:
        for part in png_chunks(file):
            if part.name != b"IDAT":
                continue
            file.seek(part.offset)
            left = part.length
            while left:
                piece = file.read(min(left, _PIECE_BYTES))
                if not piece:
                    return
                left -= len(piece)
                while piece:
                    yield unpacker.decompress(piece, _PIECE_BYTES)
                    if unpacker.eof:
                        return
                    piece = unpacker.unconsumed_tail
    while not unpacker.eof and (made := unpacker.decompress(b"", _PIECE_BYTES)):
        yield made
