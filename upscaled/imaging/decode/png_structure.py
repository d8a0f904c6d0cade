"""Reads the chunks of a PNG file before its pixels (PNG specification, section 5)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from upscaled.formats import PNG
from upscaled.imaging.decode.refusals import broken, cut_off, unsupported
from upscaled.imaging.file_parts import FilePart, png_chunks

_PIECE_BYTES = 1 << 20
_ANCILLARY = 0x20
"""Bit of a chunk name's first letter."""
_CRITICAL = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
_ANIMATION = frozenset({b"acTL", b"fcTL", b"fdAT"})
"""Chunks of an animation (section 11.3.5)."""
_MOST_FRAMES = (1 << 31) - 1
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
_KEY_BYTES: dict[int, Callable[[int], bool]] = {
    0: lambda length: length == 2,
    2: lambda length: length == 6,
    _PALETTE: lambda length: 1 <= length <= 256,
}
"""Whether a chunk tRNS has a possible length, by colour type."""
_LENGTHS = {b"cHRM": 32, b"cICP": 4, b"gAMA": 4, b"pHYs": 9, b"sRGB": 1}
"""Of chunks that are always equally long (section 11.3)."""
_PROFILE_HEAD = 81
"""Longest name of a colour profile, a zero byte, the compression method (section 11.3.3.3)."""


@dataclass(frozen=True)
class Dropped:
    """An ancillary chunk that the decoder must not see."""

    offset: int
    """Where it begins in the file."""
    length: int
    """Its bytes in the file."""
    lost: str
    """What to report about it; empty if the collector of metadata reports it."""


@dataclass(frozen=True)
class PngChunks:
    """The result of reading all chunks."""

    grey: bool
    """The colour type is grey, or grey with alpha."""
    depth: int
    exif: bytes
    coded_bytes: int
    """Length of the pixels once they are decompressed, filter bytes counted."""
    dropped: tuple[Dropped, ...]
    has_end: bool
    colours: int
    """Colours in the palette."""
    frames: int
    """1 if it is no animation."""
    has_profile: bool
    """A whole chunk iCCP comes before the pixels."""
    has_late_profile: bool
    """A chunk iCCP comes after the pixels, where it must be ignored (section 5.6)."""


def read_chunks(path: Path, most_exif: int) -> PngChunks:
    """Read the chunks of the file at ``path``, compare their checksums, check their order.

    Args:
        path: the file.
        most_exif: longest EXIF block to keep, in bytes; of a longer one, one byte more is kept.

    Raises:
        UnusablePictureError: the file is cut off, a chunk that matters is broken or in a wrong
            place, or one is unknown without which the picture can't be understood.
        TooManyPartsError: it has more chunks than any real file.
    """
    reading = _Reading(most_exif)
    with path.open("rb") as file:
        length, end = file.seek(0, 2), 0
        for part in png_chunks(file):
            end = part.offset + part.length + 4
            reading.take(file, part)
    if not reading.ends and (not reading.pixels or end != length):
        raise cut_off(PNG)
    return reading.result()


class _Reading:
    """What the chunks so far say."""

    def __init__(self, most_exif: int) -> None:
        self._keep = {
            b"IHDR": 13,
            b"acTL": 8,
            b"eXIf": most_exif + 1,
            b"iCCP": _PROFILE_HEAD,
        }
        self._header = b""
        self._exif = b""
        self._last = b""
        self._dropped: list[Dropped] = []
        self._colours = 0
        self._frames = 0
        self._first_is_a_frame = False
        self._profile = self._late_profile = False
        self.pixels = 0
        """Chunks IDAT."""
        self.ends = False

    def take(self, file: BinaryIO, part: FilePart) -> None:
        """Read the next chunk.

        Raises:
            UnusablePictureError: as `read_chunks`.
        """
        name = part.name.decode("latin-1")
        content, whole = _checked(file, part, self._keep.get(part.name, 0), name)
        if not part.name.isalpha():
            raise broken(PNG, f"the name {name} of a chunk has other characters than letters")
        if part.name[0] & _ANCILLARY:
            self._take_ancillary(part, name, content, whole)
        else:
            self._take_critical(part, name, content, whole)
        self._last = part.name

    def _take_critical(self, part: FilePart, name: str, content: bytes, whole: bool) -> None:
        if part.name not in _CRITICAL:
            # "An unknown chunk in which the bit is 0 must make a decoder indicate to the user that
            # the image contains information it cannot safely interpret" (section 5.4).
            raise unsupported(PNG, f"the critical chunk {name}")
        if not whole:
            number = f" {self.pixels + 1}" if part.name == b"IDAT" else ""
            raise broken(PNG, f"the checksum of chunk {name}{number} is wrong")
        if not self._header and part.name != b"IHDR":
            raise broken(PNG, f"it begins with chunk {name} instead of IHDR")
        if part.name == b"IHDR":
            if self._header:
                raise broken(PNG, "chunk IHDR comes twice")
            _check_header(content)
            self._header = content
        elif part.name == b"PLTE":
            if self._colours or self.pixels:
                where = "after the pixels" if self.pixels else "twice"
                raise broken(PNG, f"chunk PLTE comes {where}")
            self._colours = _colours(part.length)
        elif part.name == b"IDAT":
            if self.pixels and self._last != b"IDAT":
                between = self._last.decode("latin-1")
                raise broken(PNG, f"chunk {between} is between the pixels, chunks IDAT")
            if self._header[9] == _PALETTE and not self._colours:
                raise broken(PNG, "it lacks the palette, chunk PLTE")
            self.pixels += 1
        else:
            if not self.pixels:
                raise broken(PNG, "it lacks the pixels, chunk IDAT")
            self.ends = True

    def _take_ancillary(self, part: FilePart, name: str, content: bytes, whole: bool) -> None:
        fault = self._fault(part, content) if whole else "whose checksum is wrong"
        if fault or part.name in _ANIMATION:
            told = f"chunk {name}, {fault}" if fault else ""
            self._dropped.append(Dropped(part.offset - 8, part.length + 12, told))
        if fault:
            return
        if part.name == b"eXIf":
            self._exif = content
        elif part.name == b"iCCP":
            self._profile = self._profile or not self.pixels
            self._late_profile = self._late_profile or self.pixels > 0
        elif part.name == b"acTL" and not self.pixels:
            self._frames = _frames(part, content)
        elif part.name == b"fcTL" and not self.pixels:
            self._first_is_a_frame = True

    def _fault(self, part: FilePart, content: bytes) -> str:
        """Return why a chunk with a right checksum can't be read; empty if it can."""
        possible = True
        if (exact := _LENGTHS.get(part.name)) is not None:
            possible = part.length == exact
        elif part.name == b"tRNS" and (check := _KEY_BYTES.get(self._colour_type)) is not None:
            possible = check(part.length)
        elif part.name == b"iCCP":
            _, mark, packed = content.partition(b"\0")
            return "" if mark and packed[:1] == b"\0" else "which is broken"
        return "" if possible else f"which has {part.length} bytes"

    @property
    def _colour_type(self) -> int:
        return self._header[9] if self._header else -1

    def result(self) -> PngChunks:
        """Return what all chunks said.

        Raises:
            UnusablePictureError: there is no header.
        """
        header = self._header
        if not header:
            raise broken(PNG, "it lacks the header, chunk IHDR")
        # The main picture counts as a frame even if it is not part of the animation.
        frames = self._frames + (not self._first_is_a_frame) if self._frames else 1
        return PngChunks(
            grey=not header[9] & 0b11,
            depth=header[8],
            exif=self._exif,
            coded_bytes=_coded_bytes(header),
            dropped=tuple(self._dropped),
            has_end=self.ends,
            colours=self._colours,
            frames=frames,
            has_profile=self._profile,
            has_late_profile=self._late_profile,
        )


def _frames(part: FilePart, content: bytes) -> int:
    """Return the number of frames in a chunk acTL; 0 if it is invalid."""
    frames = int.from_bytes(content[:4], "big")
    return frames if part.length == 8 and frames <= _MOST_FRAMES else 0


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


def _coded_bytes(header: bytes) -> int:
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits = depth * _SAMPLES.get(colour, 1)
    total = 0
    for left, top, across, down in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0:
            total += max(0, rows) * (1 + -(-columns * bits // 8))
    return total


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
