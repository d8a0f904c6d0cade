"""`Decoded`: the output of our own decoders."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from upscaled.imaging.raw import Pixels


@dataclass(frozen=True)
class Decoded:
    image: Image.Image
    """8 bits in mode L, RGB, CMYK or LAB."""
    alpha: Pixels | None
    """Rows × columns."""
