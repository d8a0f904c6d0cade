"""Collects an upload's metadata, and reports what no result can hold."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from upscaled.formats import JPEG, PNG, TIFF, WEBP, PictureFormat
from upscaled.imaging.file_parts import FilePart, jpeg_segments, png_chunks
from upscaled.imaging.metadata import exif as exifs
from upscaled.imaging.metadata import iptc
from upscaled.imaging.metadata.sidecar import (
    COMMENT,
    EXIF,
    IPTC,
    RESOLUTION,
    TEXT,
    XMP,
    Metadata,
)

MAX_BYTES = 4 << 20
"""Largest block; larger ones are dropped and reported."""
_MAX_TEXTS = 256
_STRUCTURAL = frozenset(
    {
        *(b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP"),
        *(b"cICP", b"mDCV", b"cLLI", b"mDCv", b"cLLi", b"sBIT", b"pHYs", b"eXIf"),
    }
)
"""PNG chunks that are handled elsewhere, or do not matter for the result."""
_XMP_MARK = b"http://ns.adobe.com/xap/1.0/\0"
_LONG_XMP_MARK = b"http://ns.adobe.com/xmp/extension/\0"
_PHOTOSHOP_MARK = b"Photoshop 3.0\0"
_XMP_KEYWORD = b"XML:com.adobe.xmp"
_RAW_PROFILE = b"Raw profile type "


class Collector:
    """The metadata found so far."""

    def __init__(self, exif: bytes, icc: bytes) -> None:
        self.exif, self.icc = exif, icc
        self.xmp = self.iptc = self.comment = b""
        self.texts: list[tuple[str, bytes]] = []
        self.lost: list[str] = []

    def lose(self, what: str) -> None:
        """Report once that something is lost."""
        if what not in self.lost and len(self.lost) < 16:
            self.lost.append(what)

    def photoshop(self, resources: bytes) -> None:
        """Take the IPTC records from Photoshop's image resources."""
        records, others = iptc.split(resources)
        self.iptc = self.iptc or records
        if others:
            self.lose("Photoshop resources")

    def text(self, name: bytes, chunk: bytes, content: bytes) -> None:
        keyword = chunk.partition(b"\0")[0]
        text = _text_of(name, content)
        if text is None:
            self.lose(f"text {keyword[:20].decode('latin-1')!r}, which is broken or too long")
        elif keyword == _XMP_KEYWORD:
            self.xmp = self.xmp or text
        elif keyword.startswith(_RAW_PROFILE):
            self._raw_profile(keyword.removeprefix(_RAW_PROFILE), text)
        elif len(self.texts) == _MAX_TEXTS or self._length() + len(content) > MAX_BYTES:
            self.lose("further texts")
        else:
            self.texts.append((name.decode("ascii"), content))

    def _raw_profile(self, kind: bytes, text: bytes) -> None:
        content = iptc.from_raw_profile(text)
        if kind == b"xmp":
            self.xmp = self.xmp or content
        elif kind == b"iptc" and content:
            self.photoshop(content) if content[:4] == b"8BIM" else self._records(content)
        elif kind == b"8bim":
            self.photoshop(content)
        elif kind in (b"APP1", b"exif") and content.startswith(b"Exif\0\0"):
            self.exif = self.exif or content[6:]
        elif kind == b"APP1" and content.startswith(_XMP_MARK):
            self.xmp = self.xmp or content.removeprefix(_XMP_MARK)
        else:
            self.lose(f"raw profile {kind[:20].decode('latin-1')!r}")

    def _records(self, content: bytes) -> None:
        self.iptc = self.iptc or content

    def _length(self) -> int:
        return sum(len(content) for _, content in self.texts)


def collect(
    path: Path, kind: PictureFormat, image: Image.Image, exif: bytes, icc: bytes, *, turned: bool
) -> tuple[Metadata, list[str], list[str]]:
    """Return an upload's metadata, what is kept of it, and what is lost, as short phrases.

    Broken metadata is dropped and reported; it is no reason to refuse a picture.

    Args:
        path: the upload.
        kind: its format.
        image: as Pillow opened it; its ``info`` is used.
        exif: its EXIF block, a TIFF structure.
        icc: the profile that its pixels keep.
        turned: its orientation swaps width and height.
    """
    found = Collector(exif, icc)
    try:
        with path.open("rb") as file:
            if kind is PNG:
                _from_png(file, found)
            elif kind is JPEG:
                _from_jpeg(file, found)
            elif kind is WEBP:
                _from_webp(file, found)
            elif kind is TIFF:
                _from_tiff(image, found)
    except Exception:  # broken blocks can raise anything
        found.lose("metadata, which is broken")
    block = image.info.get("xmp")
    if not found.xmp and isinstance(block, bytes):
        found.xmp = block
    dpi = _told(found)
    if dpi is None:
        dpi = _dpi(kind, image, found)
    if dpi is not None and turned:
        dpi = (dpi[1], dpi[0])
    for name in (XMP, IPTC, COMMENT):
        block = getattr(found, name.lower())
        if len(block) > MAX_BYTES:
            found.lose(f"{name} of {len(block)} bytes is too large to be kept")
            setattr(found, name.lower(), b"")
    made = Metadata(
        icc, found.exif, found.xmp, found.iptc, found.comment, tuple(found.texts), dpi, turned
    )
    parts = (
        (RESOLUTION, dpi),
        (EXIF, made.exif),
        (XMP, made.xmp),
        (IPTC, made.iptc),
        (COMMENT, made.comment),
        (TEXT, made.texts),
    )
    return made, [name for name, part in parts if part], found.lost


def _told(found: Collector) -> tuple[float, float] | None:
    """Return the resolution in the EXIF block; drop the block if it is broken."""
    if not found.exif:
        return None
    try:
        if exifs.has_thumbnail(found.exif):
            found.lose("thumbnail")
        dpi = exifs.resolution(found.exif)
    except exifs.ExifError:
        found.exif = b""
        found.lose("EXIF, which is broken")
        return None
    return dpi if dpi is not None and _is_resolution(*dpi) else None


def _dpi(kind: PictureFormat, image: Image.Image, found: Collector) -> tuple[float, float] | None:
    """Return the resolution in the file's own header."""
    # If a JPEG has no resolution, Pillow invents one.
    if kind is JPEG and image.info.get("jfif_unit") not in (1, 2):
        aspect = image.info.get("jfif_density", (1, 1))
    else:
        aspect = image.info.get("aspect", (1, 1))
    if aspect[0] != aspect[1]:
        found.lose("shape of the pixels, which are not square")
    dpi = image.info.get("dpi")
    if (kind is JPEG and image.info.get("jfif_unit") not in (1, 2)) or dpi is None:
        return None
    if not isinstance(dpi, tuple) or len(dpi) != 2 or not _is_resolution(*map(float, dpi)):
        found.lose("resolution, which is invalid")
        return None
    return float(dpi[0]), float(dpi[1])


def _is_resolution(across: float, down: float) -> bool:
    return all(math.isfinite(v) and 0.01 <= v <= 1_000_000 for v in (across, down))


def _content(file: BinaryIO, part: FilePart) -> bytes:
    file.seek(part.offset)
    return file.read(min(part.length, MAX_BYTES + 1))


def _from_png(file: BinaryIO, found: Collector) -> None:
    for part in png_chunks(file):
        if part.name in (b"tEXt", b"zTXt", b"iTXt"):
            content = _content(file, part)
            if file.read(4) == zlib.crc32(part.name + content).to_bytes(4, "big"):
                found.text(part.name, content, content)
        elif part.name not in _STRUCTURAL and _is_whole(file, part):
            name = part.name.decode("latin-1")
            found.lose(f"{name if name.isalpha() and name.isascii() else 'unknown'} chunk")


def _is_whole(file: BinaryIO, part: FilePart) -> bool:
    """Tell whether a chunk's checksum is right; the decoder reports those that are wrong."""
    content = _content(file, part)
    if len(content) < part.length:
        return True
    return file.read(4) == zlib.crc32(part.name + content).to_bytes(4, "big")


def _text_of(name: bytes, content: bytes) -> bytes | None:
    """Return the text of a PNG chunk; None if it is broken or too long."""
    if len(content) > MAX_BYTES:
        return None
    _, mark, rest = content.partition(b"\0")
    if not mark:
        return None
    if name == b"tEXt":
        return rest
    if name == b"zTXt":
        return _unpacked(rest[1:])
    packed = rest[:1] == b"\1"
    text = rest[2:].split(b"\0", 2)  # language, translated keyword, text
    if len(text) != 3:
        return None
    return _unpacked(text[2]) if packed else text[2]


def _unpacked(packed: bytes) -> bytes | None:
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(packed, MAX_BYTES)
    except zlib.error:
        return None
    return text if unpacker.eof else None


def _from_jpeg(file: BinaryIO, found: Collector) -> None:
    resources = b""
    for part in jpeg_segments(file):
        marker = part.name[0]
        if marker != 0xFE and not 0xE0 <= marker <= 0xEF:
            continue
        content = _content(file, part)
        if marker == 0xFE:
            found.comment += b"\n" * bool(found.comment) + content.rstrip(b"\0")
        elif marker == 0xE1 and content.startswith(_XMP_MARK):
            found.xmp = found.xmp or content.removeprefix(_XMP_MARK)
        elif marker == 0xE1 and content.startswith(_LONG_XMP_MARK):
            found.lose("extended XMP")
        elif marker == 0xED and content.startswith(_PHOTOSHOP_MARK):
            resources += content.removeprefix(_PHOTOSHOP_MARK)
        elif not _is_known(marker, content):
            found.lose(f"data of an application (APP{marker - 0xE0})")
        if len(resources) + len(found.comment) > MAX_BYTES:
            found.lose("comments or Photoshop resources, which are too long")
            return
    found.photoshop(resources)


def _is_known(marker: int, content: bytes) -> bool:
    marks = {
        0xE0: (b"JFIF\0", b"JFXX\0"),
        0xE1: (b"Exif\0",),
        0xE2: (b"ICC_PROFILE\0", b"MPF\0"),
        0xEE: (b"Adobe",),
    }
    return content.startswith(marks.get(marker, (b"\0never",)))


def _from_webp(file: BinaryIO, found: Collector) -> None:
    for name in _riff_chunks(file):
        if name not in (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ICCP", b"EXIF", b"XMP "):
            found.lose("unknown chunk")


def _riff_chunks(file: BinaryIO) -> Iterator[bytes]:
    place = 12
    for _ in range(1000):
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            return
        yield head[:4]
        length = int.from_bytes(head[4:], "little")
        place += 8 + length + length % 2


def _from_tiff(image: Image.Image, found: Collector) -> None:
    found.iptc = bytes(image.info.get("iptc") or b"")
    found.photoshop(bytes(image.info.get("photoshop") or b""))
