"""`Metadata`: the metadata of a picture, stored in a file in the job's folder."""

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
"""Names of the parts in a receipt."""


@dataclass(frozen=True)
class Metadata:
    """The parts; empty if the upload does not have them."""

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
    """Pixels per inch, horizontal and vertical, after orientation."""
    turned: bool = False
    """Whether the orientation swapped width and height."""

    def save(self, path: Path) -> None:
        path.write_bytes(serial.encode(self))

    @classmethod
    def load(cls, path: Path | None) -> Metadata:
        """Return what `save` wrote to ``path``; empty for None."""
        if path is None:
            return cls()
        with open(path, "rb", opener=files.no_follow) as file:
            return serial.decode(file.read(), cls)
