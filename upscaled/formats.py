"""The table of picture formats: one row for each, with all facts that other modules need."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class PictureFormat:
    """One row. The first block is for every format, the second for those that can be written."""

    name: str
    """In the setting ``features.input_formats`` and in job records."""
    label: str
    """In sentences for people."""
    signatures: tuple[bytes, ...]
    """Regular expressions, one of which matches the file's first bytes."""
    plugin: str
    """Pillow's name of its decoder and encoder."""
    media_type: str
    suffixes: tuple[str, ...]
    """Ends of file names, by which a walk over folders finds pictures."""

    result_name: str = ""
    """In the field ``format``, in job records, and as the result's suffix; empty: read only."""
    aliases: tuple[str, ...] = ()
    """What the field ``format`` takes as well."""
    largest_side: int = 0
    """Longest side in pixels."""
    strip_rows: int = 0
    """Encoded in strips that are appended, and end at multiples of this; 0: the encoder needs the
    whole picture at once."""
    has_quality: bool = False
    """Encoded with loss, by a quality from 1 to 100."""
    has_lossless: bool = False
    """Encoded with loss, and without on request."""
    has_alpha: bool = False
    """Holds transparency."""
    has_grey: bool = False
    """Holds pictures of one channel."""
    segment_bytes: int = 0
    """Most bytes of EXIF data; 0: no limit that matters."""

    @property
    def banded(self) -> bool:
        """Whether it is encoded in strips."""
        return self.strip_rows > 0


PNG = PictureFormat(
    name="png",
    label="PNG",
    signatures=(rb"\x89PNG\r\n\x1a\n",),
    plugin="PNG",
    result_name="png",
    media_type="image/png",
    suffixes=(".png",),
    largest_side=2**31 - 1,  # PNG specification, IHDR
    strip_rows=1,
    has_alpha=True,
    has_grey=True,
)
JPEG = PictureFormat(
    name="jpeg",
    label="JPEG",
    signatures=(rb"\xff\xd8\xff",),
    plugin="JPEG",
    result_name="jpg",
    aliases=("jpeg",),
    media_type="image/jpeg",
    suffixes=(".jpg", ".jpeg", ".jpe", ".jfif"),
    largest_side=65_500,  # its field holds 65,535, libjpeg's JPEG_MAX_DIMENSION is 65,500
    # Eight rows of blocks, after each of which is a restart marker; these are numbered modulo 8.
    strip_rows=64,
    has_quality=True,
    has_grey=True,
    segment_bytes=65_533,
)
WEBP = PictureFormat(
    name="webp",
    label="WebP",
    signatures=(rb"RIFF....WEBP",),
    plugin="WEBP",
    result_name="webp",
    media_type="image/webp",
    suffixes=(".webp",),
    largest_side=16_383,  # 14 bits in the bitstream
    has_quality=True,
    has_lossless=True,
    has_alpha=True,
)
BMP = PictureFormat(
    name="bmp",
    label="BMP",
    # The length of the second header; 12 is OS/2's, which can begin as a text does.
    signatures=(rb"BM.{12}[\x0c-\xff]\x00\x00\x00",),
    plugin="BMP",
    media_type="image/bmp",
    suffixes=(".bmp", ".dib"),
)
TIFF = PictureFormat(
    name="tiff",
    label="TIFF",
    # Classic and BigTIFF in both byte orders; "CR" is a Canon raw file.
    signatures=(rb"II\*\x00(?!....CR)|MM\x00\*|II\+\x00|MM\x00\+",),
    plugin="TIFF",
    media_type="image/tiff",
    suffixes=(".tif", ".tiff"),
)
AVIF = PictureFormat(
    name="avif",
    label="AVIF",
    signatures=(rb"....ftyp(?:avif|avis)", rb"....ftyp(?:mif1|msf1|miaf).{4,60}?avi[fs]"),
    plugin="AVIF",
    media_type="image/avif",
    suffixes=(".avif",),
)

TABLE = (PNG, JPEG, WEBP, BMP, TIFF, AVIF)
INPUT_NAMES = tuple(row.name for row in TABLE)
"""What the setting ``features.input_formats`` takes."""
RESULT_NAMES = tuple(row.result_name for row in TABLE if row.result_name)
"""What the field ``format`` is in a job."""

SUFFIXES = frozenset(suffix for row in TABLE for suffix in row.suffixes)
"""Ends of the names of picture files, in lower case."""

_BY_INPUT = {row.name: row for row in TABLE}
_BY_RESULT = {row.result_name: row for row in TABLE if row.result_name}
_BY_ALIAS = {name: row for row in _BY_RESULT.values() for name in (row.result_name, *row.aliases)}
_SIGNATURES = tuple((row, re.compile(b"|".join(row.signatures), re.DOTALL)) for row in TABLE)


def input_format(name: str) -> PictureFormat:
    """Return the format of this name, one of `INPUT_NAMES`."""
    return _BY_INPUT[name]


def result_format(name: str) -> PictureFormat:
    """Return the format of this result name, one of `RESULT_NAMES`."""
    return _BY_RESULT[name]


def by_alias(text: str) -> PictureFormat | None:
    """Return the format that a caller means by ``text``: a result name or an alias, any case."""
    return _BY_ALIAS.get(text.strip().lower())


def by_signature(head: bytes) -> PictureFormat | None:
    """Return the format of a file by its first bytes."""
    return next((row for row, pattern in _SIGNATURES if pattern.match(head)), None)


def result_format_for(input_name: str) -> PictureFormat:
    """Return the format of a result whose caller named none: the upload's own, else PNG."""
    row = _BY_INPUT[input_name]
    return row if row.result_name else PNG


def labels(names: Collection[str]) -> str:
    """Return the labels of the formats ``names`` as a sentence lists them: ``PNG or WebP``."""
    return alternatives(row.label for row in TABLE if row.name in names)


def alternatives(words: Iterable[str]) -> str:
    """Return ``words`` as a sentence lists them: ``a, b or c``."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last
