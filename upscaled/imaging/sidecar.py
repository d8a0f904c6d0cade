"""What travels beside the pixels: the ICC profile and the EXIF data, kept in one JSON file."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image

from upscaled.pictures import Size

_BASE = ExifTags.Base
# Tags of the first directory that speak of the picture and not of the file it was in.
_KEPT_TAGS = frozenset(
    {
        _BASE.ImageDescription,
        _BASE.Make,
        _BASE.Model,
        _BASE.XResolution,
        _BASE.YResolution,
        _BASE.ResolutionUnit,
        _BASE.Software,
        _BASE.DateTime,
        _BASE.Artist,
        _BASE.HostComputer,
        _BASE.Copyright,
        _BASE.Rating,
        _BASE.RatingPercent,
        _BASE.XPTitle,
        _BASE.XPComment,
        _BASE.XPAuthor,
        _BASE.XPKeywords,
        _BASE.XPSubject,
        ExifTags.IFD.Exif,
        ExifTags.IFD.GPSInfo,
    }
)


@dataclass(frozen=True)
class Sidecar:
    """Profile and EXIF block of an upload; empty where it has none."""

    icc: bytes = b""
    exif: bytes = b""

    def save(self, path: Path) -> None:
        """Write both to ``path``."""
        blocks = {"icc": self.icc, "exif": self.exif}
        text = {name: base64.b64encode(block).decode("ascii") for name, block in blocks.items()}
        path.write_text(json.dumps(text), "utf-8")

    @classmethod
    def load(cls, path: Path | None) -> Sidecar:
        """Return what was written to ``path``."""
        if path is None:
            return cls()
        text = json.loads(path.read_text("utf-8"))
        return cls(base64.b64decode(text["icc"]), base64.b64decode(text["exif"]))


def tidied(exif: bytes) -> bytes:
    """Return ``exif`` without thumbnail, orientation and what described the old file.

    Raises:
        Exception: whatever a broken block leads to.
    """
    tags = _parsed(exif)
    for tag in [tag for tag in tags if tag not in _KEPT_TAGS]:
        del tags[tag]
    return tags.tobytes().removeprefix(b"Exif\x00\x00") if len(tags) else b""


def resized(exif: bytes, size: Size) -> bytes:
    """Return tidied ``exif`` for a picture of ``size``, with its ``Exif`` marker."""
    tags = _parsed(exif)
    tags[_BASE.Orientation] = 1
    tags[_BASE.ImageWidth] = size.width
    tags[_BASE.ImageLength] = size.height
    details = tags.get_ifd(ExifTags.IFD.Exif)
    if details:
        details[_BASE.ExifImageWidth] = size.width
        details[_BASE.ExifImageHeight] = size.height
        tags[ExifTags.IFD.Exif] = details
    return tags.tobytes()


def _parsed(exif: bytes) -> Image.Exif:
    tags = Image.Exif()
    tags.load(b"Exif\x00\x00" + exif)
    return tags
