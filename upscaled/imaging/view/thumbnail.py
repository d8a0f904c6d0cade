"""Makes thumbnails."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from upscaled import files
from upscaled.imaging.view.pyramid import halved
from upscaled.imaging.view.rows import Rows
from upscaled.imaging.view.webp_tile import webp_tile

THUMBNAIL = 256
"""Longest side in pixels."""
_STRIP_ROWS = 512


def write_thumbnail(rows: Rows, path: Path) -> None:
    """Write a thumbnail of a picture to ``path``.

    Raises:
        UnusablePictureError: the picture is damaged.
        OSError: the file can't be written.
    """
    # Strips are halved as they come, so that no picture is in memory whole.
    longest, halvings = max(rows.size.width, rows.size.height), 0
    while longest >> (halvings + 1) >= 2 * THUMBNAIL and 2 << halvings <= _STRIP_ROWS:
        halvings += 1
    parts = []
    for strip in rows.strips(_STRIP_ROWS):
        small = strip
        for _ in range(halvings):
            small = halved(small)
        parts.append(small)
    image = Image.fromarray(np.concatenate(parts))
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    with open(path, "xb", opener=files.no_follow) as file:
        file.write(webp_tile(np.asarray(image)))
