"""The nouns of the imaging part, and what can go wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upscaled.errors import EngineError
from upscaled.pictures import RawImage, Size

DEFAULT_MEMORY_MB = 4096
"""Address space of one imaging process in MiB, where nothing else is asked for."""

TRUSTED_LIMIT = 0.4
"""Share of the limits from which a picture is doubted. By the experiment every planted fault that
can be seen exceeds it, and of right pictures none of the photos but one in thirty of the others,
noise and pixel art above all; those are settled by a second process
(`upscaled.pipeline.confirmation`)."""

CONFIRMABLE_LIMIT = 2.0
"""Share from which no second process helps: 98 of 100 black pictures exceed it."""

PLAUSIBLE_LIMIT = 1.0
"""Share that no right picture of the experiment reached."""


class UnlikeError(EngineError):
    """What an engine made is not the enlarged source; the message says how it differs."""

    code = "unlike_source"


@dataclass(frozen=True)
class Probe:
    """What a picture's header promises, before anything is decoded."""

    format: str
    """One of `formats.INPUT_NAMES`, by content."""
    size: Size
    """After EXIF orientation."""
    has_alpha: bool
    """It may hold transparent pixels."""


@dataclass(frozen=True)
class Prepared:
    """A decoded upload: clean pixels and what travels beside them."""

    source: RawImage
    """8-bit RGB, oriented, colour-managed."""
    alpha: RawImage | None
    """One 8-bit channel; None when the picture is wholly opaque."""
    sidecar: Path | None
    """File with the ICC profile and EXIF data to be put back."""
    kept: tuple[str, ...] = ()
    """What of the upload survives beside its pixels, as short phrases."""
    lost: tuple[str, ...] = ()
    """What of the upload cannot be carried over, as short phrases."""
    grey: bool = False
    """Every pixel of the source is grey, and so must those of the result be."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` takes back."""
        return {
            "source": raw_to_json(self.source),
            "alpha": raw_to_json(self.alpha) if self.alpha else None,
            "sidecar": str(self.sidecar) if self.sidecar else None,
            "kept": list(self.kept),
            "lost": list(self.lost),
            "grey": self.grey,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Prepared:
        """Return what `to_json` was called on."""
        return cls(
            raw_from_json(document["source"]),
            raw_from_json(document["alpha"]) if document["alpha"] else None,
            Path(document["sidecar"]) if document["sidecar"] else None,
            tuple(document["kept"]),
            tuple(document["lost"]),
            document.get("grey", False),
        )


@dataclass(frozen=True)
class FinishOptions:
    """How the result is to be written."""

    format: str
    """One of `formats.RESULT_NAMES`."""
    size: Size
    """The size that was promised."""
    quality: int | None = None
    """1 to 100, JPEG and lossy WebP; None: `encode.DEFAULT_QUALITY`."""
    lossless: bool = False
    """WebP only."""
    background: tuple[int, int, int] = (255, 255, 255)
    """What a transparent picture is laid on where the format holds no transparency."""
    keep_metadata: bool = True
    """Put ICC profile and EXIF data back; else the pixels are converted to sRGB."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` takes back."""
        return {
            "format": self.format,
            "width": self.size.width,
            "height": self.size.height,
            "quality": self.quality,
            "lossless": self.lossless,
            "background": list(self.background),
            "keep_metadata": self.keep_metadata,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> FinishOptions:
        """Return what `to_json` was called on."""
        red, green, blue = document["background"]
        return cls(
            document["format"],
            Size(document["width"], document["height"]),
            document["quality"],
            document["lossless"],
            (red, green, blue),
            document["keep_metadata"],
        )


@dataclass(frozen=True)
class Finished:
    """A result: verified, and at its final place."""

    path: Path
    size: Size
    file_size_bytes: int
    sha256: str
    score: float
    """1.0: just like the source; 0.0: at the edge of being doubted, or confirmed beyond it."""
    kept: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` takes back."""
        return {
            "path": str(self.path),
            "width": self.size.width,
            "height": self.size.height,
            "file_size_bytes": self.file_size_bytes,
            "sha256": self.sha256,
            "score": self.score,
            "kept": list(self.kept),
            "lost": list(self.lost),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Finished:
        """Return what `to_json` was called on."""
        return cls(
            Path(document["path"]),
            Size(document["width"], document["height"]),
            document["file_size_bytes"],
            document["sha256"],
            document["score"],
            tuple(document["kept"]),
            tuple(document["lost"]),
        )


@dataclass(frozen=True)
class Band:
    """Rows ``top`` to ``bottom`` (excluded) of the source, which an engine is done with."""

    top: int
    bottom: int
    limit: float = TRUSTED_LIMIT
    """How unlike the source they may be; `CONFIRMABLE_LIMIT` once confirmed."""


@dataclass(frozen=True)
class Piece:
    """Bytes of a file that later bands build on."""

    name: str
    offset: int
    length: int
    crc32: int


@dataclass(frozen=True)
class Written:
    """How far a result is written: what the next band goes on from, in whatever process."""

    source_rows: int = 0
    """Rows of the source whose enlargement was verified."""
    rows: int = 0
    """Rows of the result in the unfinished file."""
    length: int = 0
    """Bytes of the unfinished file; what stands behind them is of an attempt that broke off."""
    state: int = 0
    """The encoder's own."""
    score: float = 1.0
    """The lowest of the bands so far."""
    pieces: tuple[Piece, ...] = ()
    finished: Finished | None = None
    """Once the last band was taken."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` takes back; without what is finished."""
        return {
            "source_rows": self.source_rows,
            "rows": self.rows,
            "length": self.length,
            "state": self.state,
            "score": self.score,
            "pieces": [[p.name, p.offset, p.length, p.crc32] for p in self.pieces],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Written:
        """Return what `to_json` was called on."""
        return cls(
            document["source_rows"],
            document["rows"],
            document["length"],
            document["state"],
            document["score"],
            tuple(Piece(*piece) for piece in document["pieces"]),
        )


NOTHING_WRITTEN = Written()


def raw_to_json(raw: RawImage) -> dict[str, Any]:
    """Return a raw picture as plain values."""
    size = raw.size
    return {
        "path": str(raw.path),
        "width": size.width,
        "height": size.height,
        "channels": raw.channels,
    }


def raw_from_json(document: Mapping[str, Any]) -> RawImage:
    """Return what `raw_to_json` was called on."""
    size = Size(document["width"], document["height"])
    return RawImage(Path(document["path"]), size, document["channels"])
