"""One high-quality resample, a strip of the target at a time, equal to one done whole."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from upscaled.imaging.raw import Pixels, read_rows
from upscaled.pictures import RawImage, Size

_LANCZOS_LOBES = 3

Reader = Callable[[int, int], Image.Image]
"""Returns rows ``top`` to ``bottom`` of a picture."""


def reader(raw: RawImage) -> Reader:
    """Return how rows of ``raw`` are read."""

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
    """Return rows ``top`` to ``bottom`` of a picture of ``old`` size as it is at ``size``.

    Only the rows of the source that count are read.
    """
    ratio = old.height / size.height
    # Rows at the edge of a strip lack what stands beyond it; so more are made, and cut off.
    margin = _margin(ratio)
    first, last = max(0, top - margin), min(size.height, bottom + margin)
    above, below = math.floor(first * ratio), min(old.height, math.ceil(last * ratio))
    part = read(above, below)
    box = (0, first * ratio - above, old.width, min(last * ratio - above, part.height))
    resized = part.resize((size.width, last - first), method, box)
    return np.asarray(resized)[top - first : bottom - first]


def rows_ready(old_height: int, new_height: int, there: int) -> int:
    """Return how many rows `resample` can make while only ``there`` rows of the source exist."""
    if there == old_height:
        return new_height
    ratio = old_height / new_height
    return max(0, math.floor(there / ratio) - _margin(ratio))


def _margin(ratio: float) -> int:
    return math.ceil(_LANCZOS_LOBES * max(1.0, 1 / ratio))
