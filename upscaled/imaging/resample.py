"""High-quality resampling a strip at a time; the strips equal the picture resampled whole."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from upscaled.imaging.raw import Pixels, read_rows
from upscaled.imaging.row_map import margin
from upscaled.pictures import RawImage, Size

Reader = Callable[[int, int], Image.Image]
"""Returns rows ``top`` to ``bottom`` of a picture."""


def reader(raw: RawImage) -> Reader:
    """Return a function that reads rows of ``raw``."""

    def read(top: int, bottom: int) -> Image.Image:
        rows = read_rows(raw, top, bottom)
        return Image.fromarray(rows[..., 0] if raw.channels == 1 else rows)

    return read


def resample(
    read: Reader,
    old: Size,
    size: Size,
    top: int,
    bottom: int,
    method: Image.Resampling = Image.Resampling.LANCZOS,
) -> Pixels:
    """Return rows ``top`` to ``bottom`` of a picture of ``old`` size, resampled to ``size``.

    Reads only the source rows that are needed.
    """
    ratio = old.height / size.height
    # Rows at a strip's edge depend on rows beyond it; so extra rows are made and cut off.
    extra = margin(ratio)
    first, last = max(0, top - extra), min(size.height, bottom + extra)
    above, below = math.floor(first * ratio), min(old.height, math.ceil(last * ratio))
    part = read(above, below)
    box = (0, first * ratio - above, old.width, min(last * ratio - above, part.height))
    resized = part.resize((size.width, last - first), method, box)
    return np.asarray(resized)[top - first : bottom - first]
