"""Reads the chunks of a PNG file before its pixels (PNG specification, section 5)."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from isal import isal_zlib
from PIL import Image, ImageFile

from upscaled.formats import PNG
from upscaled.imaging.decode.refusals import broken, cut_off
from upscaled.imaging.file_parts import FilePart, png_chunks

_PIECE_BYTES = 1 << 20
_ANCILLARY = 0x20
"""Bit of a chunk name's first letter."""
_PALETTE = 3
"""Colour type."""
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Bits a sample, by colour type (section 11.2.1)."""
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""By colour type."""
_PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
"""Of interlaced pictures: first column and row, steps across and down (section 8.2)."""


@dataclass(frozen=True)
class PngChunks:
    """The result of reading all chunks."""

    grey: bool
    """The colour type is grey, or grey with alpha."""
    depth: int
    exif: bytes
    coded_bytes: int
    """Length of the pixels once they are decompressed, filter bytes counted."""
    damaged: tuple[tuple[str, int, int], ...]
    """Ancillary chunks with a wrong checksum: name, offset and length in the file."""
    has_end: bool
    colours: int
    """Colours in the palette."""
    has_profile: bool
    """A whole chunk iCCP comes before the pixels."""
    has_late_profile: bool
    """A whole chunk iCCP comes after them, where it does not count (section 5.6)."""


def read_chunks(path: Path, most_exif: int) -> PngChunks:
    """Read the chunks of the file at ``path`` and compare their checksums.

    Args:
        path: the file.
        most_exif: longest EXIF block to keep, in bytes; of a longer one, one byte more is kept.

    Raises:
        UnusablePictureError: the file is cut off, or a chunk that matters is broken.
        TooManyPartsError: it has more chunks than any real file.
    """
    damaged: list[tuple[str, int, int]] = []
    exif, header, pixels, ends, palette = b"", b"", 0, False, 0
    profile = late_profile = False
    with path.open("rb") as file:
        length, end = file.seek(0, 2), 0
        for part in png_chunks(file):
            name, end = part.name.decode("latin-1"), part.offset + part.length + 4
            pixels += part.name == b"IDAT"
            keep = {b"IHDR": 13, b"eXIf": most_exif + 1}.get(part.name, 0)
            content, whole = _checked(file, part, keep, name)
            if not whole and not part.name[0] & _ANCILLARY:
                number = f" {pixels}" if part.name == b"IDAT" else ""
                raise broken(PNG, f"the checksum of chunk {name}{number} is wrong")
            if not whole:
                damaged.append((name, part.offset - 8, part.length + 12))
            elif part.name == b"eXIf":
                exif = content
            elif part.name == b"IHDR":
                header = content
            elif part.name == b"iCCP":
                profile, late_profile = profile or not pixels, late_profile or pixels > 0
            if part.name == b"PLTE":
                palette = _colours(part.length)
            ends = part.name == b"IEND"
    if not ends and (not pixels or end != length):
        raise cut_off(PNG)
    _check_header(header)
    if header[9] == _PALETTE and not palette:
        raise broken(PNG, "it lacks the palette, chunk PLTE")
    return PngChunks(
        not header[9] & 0b11,
        header[8],
        exif,
        _coded_bytes(header),
        tuple(damaged),
        ends,
        palette,
        profile,
        late_profile,
    )


def _check_header(header: bytes) -> None:
    """Refuse an IHDR chunk that the specification does not allow (section 11.2.1).

    Raises:
        UnusablePictureError: it is such a chunk; the sentence names the field.
    """
    if len(header) != 13:
        raise broken(PNG, "chunk IHDR")
    width, height, depth, colour, packing, filtering, interlaced = struct.unpack(">IIBBBBB", header)
    if not 0 < width < 1 << 31 or not 0 < height < 1 << 31:
        raise broken(PNG, f"chunk IHDR has the width {width} and the height {height}")
    for name, value, allowed in (
        ("colour type", colour, tuple(_DEPTHS)),
        ("bit depth", depth, _DEPTHS.get(colour, ())),
        ("compression method", packing, (0,)),
        ("filter method", filtering, (0,)),
        ("interlace method", interlaced, (0, 1)),
    ):
        if value not in allowed:
            raise broken(PNG, f"chunk IHDR has the {name} {value}, which there is not")


def _colours(length: int) -> int:
    """Return how many colours a PLTE chunk of ``length`` bytes has.

    Raises:
        UnusablePictureError: none, too many, or a part of one.
    """
    if length % 3 or not 3 <= length <= 3 * 256:
        raise broken(PNG, f"chunk PLTE has {length} bytes")
    return length // 3


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


def low_bytes(path: Path) -> Image.Image:
    """Return the low bytes of the samples of an RGB picture with 16 bits a sample.

    Pillow keeps the high bytes only. Its reader of little-endian samples takes the second byte.

    Raises:
        Exception: whatever Pillow's decoder raises about broken bytes.
    """
    image = Image.open(path, formats=[PNG.plugin])
    assert isinstance(image, ImageFile.ImageFile)  # noqa: S101 - as Image.open promises
    image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
    image.load()
    return image


def _coded_bytes(header: bytes) -> int:
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits = depth * _SAMPLES.get(colour, 1)
    total = 0
    for left, top, across, down in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0:
            total += max(0, rows) * (1 + -(-columns * bits // 8))
    return total


def without(path: Path, parts: tuple[tuple[str, int, int], ...]) -> io.BytesIO:
    """Return the file without ``parts`` of it."""
    made, at = io.BytesIO(), 0
    with path.open("rb") as file:
        for _, offset, length in parts:
            made.write(file.read(offset - at))
            file.seek(length, 1)
            at = offset + length
        made.write(file.read())
    made.seek(0)
    return made


def _checked(file: BinaryIO, part: FilePart, keep: int, name: str) -> tuple[bytes, bool]:
    """Return up to ``keep`` bytes of a chunk, and whether its checksum is right.

    Raises:
        UnusablePictureError: the file ends in the middle of it.
    """
    check, left, kept = zlib.crc32(part.name), part.length, b""
    file.seek(part.offset)
    while left:
        piece = file.read(min(left, _PIECE_BYTES))
        if not piece:
            raise cut_off(PNG, f"in chunk {name}")
        check = zlib.crc32(piece, check)
        kept += piece[: max(0, keep - len(kept))]
        left -= len(piece)
    told = file.read(4)
    if len(told) < 4:
        raise cut_off(PNG, f"in chunk {name}")
    return kept, check == int.from_bytes(told, "big")
