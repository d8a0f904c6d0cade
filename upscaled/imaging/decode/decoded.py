"""What our own decoders make of a file."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from upscaled.imaging.raw import Pixels


@dataclass(frozen=True)
class Decoded:
    """A decoded picture."""

    image: Image.Image
    """8 bits in mode L, RGB, CMYK or LAB."""
    alpha: Pixels | None
    """Rows × columns."""
