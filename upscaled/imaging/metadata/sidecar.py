"""`Metadata`: what travels beside a picture's pixels, kept in a file in the job's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from upscaled import files, serial

RESOLUTION, EXIF, XMP, IPTC, COMMENT, TEXT = (
    "resolution",
    "EXIF",
    "XMP",
    "IPTC",
    "comment",
    "text",
)
PROFILE = "ICC profile"
"""How the parts are called in a receipt."""


@dataclass(frozen=True)
class Metadata:
    """The parts; empty where the upload has none."""

    icc: bytes = b""
    exif: bytes = b""
    """A TIFF structure, as it was in the upload."""
    xmp: bytes = b""
    iptc: bytes = b""
    """IPTC-IIM records, without Photoshop's wrapping."""
    comment: bytes = b""
    """Of a JPEG, in no known encoding."""
    texts: tuple[tuple[str, bytes], ...] = ()
    """Names and contents of a PNG's text chunks."""
    dpi: tuple[float, float] | None = None
    """Pixels per inch across and down, after orientation."""
    turned: bool = False
    """Orientation swapped width and height."""

    def save(self, path: Path) -> None:
        """Write all parts to ``path``."""
        path.write_bytes(serial.encode(self))

    @classmethod
    def load(cls, path: Path | None) -> Metadata:
        """Return what was written to ``path``."""
        if path is None:
            return cls()
        with open(path, "rb", opener=files.no_follow) as file:
            return serial.decode(file.read(), cls)
