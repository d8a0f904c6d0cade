"""Decodes a PNG where Pillow's decoder does not do all of it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from isal import isal_zlib
from PIL import Image, ImageFile

from upscaled.formats import PNG
from upscaled.imaging.decode.png_structure import Dropped
from upscaled.imaging.decode.refusals import cut_off
from upscaled.imaging.file_parts import png_chunks

_PIECE_BYTES = 1 << 20


def check_pixels(path: Path, coded_bytes: int) -> None:
    """See that the IDAT chunks decompress to at least ``coded_bytes``.

    Pillow leaves the rows black that a compressed stream lacks at its end.

    Raises:
        UnusablePictureError: they decompress to less.
    """
    unpacker, left = isal_zlib.decompressobj(), coded_bytes
    with path.open("rb") as file:
        for part in png_chunks(file):
            if part.name != b"IDAT":
                continue
            file.seek(part.offset)
            packed = part.length
            while packed and left > 0:
                piece = file.read(min(packed, _PIECE_BYTES))
                packed -= len(piece)
                while piece and left > 0:
                    left -= len(unpacker.decompress(piece, _PIECE_BYTES))
                    piece = unpacker.unconsumed_tail
                if unpacker.eof:
                    packed = 0
    while left > 0 and not unpacker.eof and (made := unpacker.decompress(b"", _PIECE_BYTES)):
        left -= len(made)
    if left > 0:
        raise cut_off(PNG, f"the pixels lack {left} of {coded_bytes} bytes")


def low_bytes(source: Path | BinaryIO) -> Image.Image:
    """Return the low bytes of the samples of an RGB picture with 16 bits a sample.

    Pillow keeps the high bytes only. Its reader of little-endian samples takes the second byte.

    Raises:
        Exception: whatever Pillow's decoder raises about broken bytes.
    """
    image = Image.open(source, formats=[PNG.plugin])
    assert isinstance(image, ImageFile.ImageFile)  # noqa: S101 - as Image.open promises
    image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
    image.load()
    return image


def without(path: Path, dropped: Sequence[Dropped]) -> Path | BinaryIO:
    """Return the file without some of its chunks; its path if there are none."""
    if not dropped:
        return path
    made, at = io.BytesIO(), 0
    with path.open("rb") as file:
        for chunk in dropped:
            made.write(file.read(chunk.offset - at))
            file.seek(chunk.length, 1)
            at = chunk.offset + chunk.length
        made.write(file.read())
    made.seek(0)
    return made
