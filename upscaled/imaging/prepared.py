"""A picture before it is enlarged: its header, then its decoded pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from upscaled.pictures import RawImage, Size

SOURCE = "source.rgb"
ALPHA = "source.alpha"
SIDECAR = "source.meta"
"""Names of the files in a job's folder."""


@dataclass(frozen=True)
class Probe:
    """The content of a picture's header."""

    format: str
    """One of `formats.INPUT_NAMES`, detected by content."""
    size: Size
    """After EXIF orientation."""
    has_alpha: bool
    """Whether it can have transparent pixels."""


@dataclass(frozen=True)
class Prepared:
    """A decoded upload: its pixels, and the metadata for the result."""

    source: RawImage
    """8-bit RGB, oriented, colour-managed."""
    alpha: RawImage | None
    """One 8-bit channel; None when the picture is wholly opaque."""
    sidecar: Path | None
    """File with the metadata, see `upscaled.imaging.metadata`."""
    kept: tuple[str, ...] = ()
    """Metadata of the upload that is kept, as short phrases."""
    lost: tuple[str, ...] = ()
    """Metadata that is lost, as short phrases."""
    grey: bool = False
    """Every pixel of the source is grey, so those of the result must be."""
