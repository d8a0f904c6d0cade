"""A result: how to write it, and how much is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from upscaled.imaging.verify.thresholds import TRUSTED_LIMIT
from upscaled.pictures import Size

PART = "result.part"
"""Name of a result's file until it is sealed under its own name."""


@dataclass(frozen=True)
class FinishOptions:
    """How to write the result."""

    format: str
    """One of `formats.RESULT_NAMES`."""
    size: Size
    """The size that was promised."""
    quality: int | None = None
    """1 to 100, JPEG and lossy WebP; None: `encode.DEFAULT_QUALITY`."""
    lossless: bool = False
    """WebP only."""
    background: tuple[int, int, int] = (255, 255, 255)
    """sRGB colour under transparent pixels where the format holds no transparency."""
    keep_metadata: bool = True
    """Write the source's profile and metadata; else convert the pixels to sRGB and write none."""


@dataclass(frozen=True)
class Band:
    """Rows ``top`` to ``bottom`` (excluded) of the source, which an engine has enlarged."""

    top: int
    bottom: int
    limit: float = TRUSTED_LIMIT
    """How much they may differ from the source; `CONFIRMABLE_LIMIT` once confirmed."""


class Piece(NamedTuple):
    """Bytes of a file that later bands build on. A list in JSON, as in existing files."""

    name: str
    offset: int
    length: int
    crc32: int


class StripPart(NamedTuple):
    """A strip in a file of encoded strips; see `upscaled.imaging.encode.encoder.EncodedStrip`."""

    bytes: int
    """Its length in the file."""
    check: int
    length: int

    @property
    def is_possible(self) -> bool:
        """Whether there can be such a strip."""
        return 0 < self.bytes < 1 << 53 and 0 <= self.check < 1 << 32 and 0 <= self.length < 1 << 53


@dataclass(frozen=True)
class EncodedBody:
    """The body of a band (`upscaled.imaging.row_map`), encoded apart from the result."""

    path: Path
    offset: int
    """Where its strips begin in the file."""
    top: int
    bottom: int
    """The rows of the result."""
    strips: tuple[StripPart, ...]
    score: float
    """Of the band, whose rows were verified before."""

    @property
    def length(self) -> int:
        """Bytes of all strips."""
        return sum(part.bytes for part in self.strips)


@dataclass(frozen=True)
class Finished:
    """A complete, verified result."""

    path: Path
    size: Size
    file_size_bytes: int
    sha256: str
    score: float
    """1.0: equal to the source; 0.0: at the limit of trust, or confirmed beyond it."""
    kept: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


@dataclass(frozen=True)
class ResultProgress:
    """How far a result is written; any process can continue from it.

    Part of checkpoints on disk, so fields may be added but not changed.
    """

    source_rows: int = 0
    """Source rows whose enlargement was verified."""
    rows: int = 0
    """Rows of the result in the unfinished file."""
    length: int = 0
    """Bytes of the unfinished file; bytes beyond belong to an attempt that was interrupted."""
    state: int = 0
    """The encoder's state."""
    score: float = 1.0
    """The lowest score of the bands so far."""
    pieces: tuple[Piece, ...] = ()
    finished: Finished | None = None
    """Set by the last band."""


NOTHING_WRITTEN = ResultProgress()
