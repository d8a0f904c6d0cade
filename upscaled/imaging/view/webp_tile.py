"""Encodes small pictures that are only looked at: WebP with little loss."""

from __future__ import annotations

import io

from PIL import Image

from upscaled.imaging.raw import Pixels

_QUALITY = 88
_METHOD = 0
"""The fastest: it takes a third of the time of the usual 4."""


def webp_tile(pixels: Pixels) -> bytes:
    """Return RGB or RGBA pixels as a WebP file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", quality=_QUALITY, method=_METHOD)
    return file.getvalue()
