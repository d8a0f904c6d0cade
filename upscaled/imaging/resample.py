"""One high-quality resample, a strip of the target at a time, equal to one done whole."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from upscaled.imaging.raw import Pixels, read_rows
from upscaled.pictures import RawImage, Size

_LANCZOS_LOBES = 3


def resample(
    source: Image.Image | RawImage,
    size: Size,
    top: int,
    bottom: int,
    method: Image.Resampling = Image.Resampling.LANCZOS,
) -> Pixels:
    """Return rows ``top`` to ``bottom`` of ``source`` as it is at ``size``.

    Only the rows of the source that count are read.
    """
    old = Size(*source.size) if isinstance(source, Image.Image) else source.size
    ratio = old.height / size.height
    # Rows at the edge of a strip lack what stands beyond it; so more are made, and cut off.
    margin = math.ceil(_LANCZOS_LOBES * max(1.0, 1 / ratio))
    first, last = max(0, top - margin), min(size.height, bottom + margin)
    above, below = math.floor(first * ratio), min(old.height, math.ceil(last * ratio))
    if isinstance(source, Image.Image):
        part = source.crop((0, above, old.width, below))
    else:
        part = Image.fromarray(
            np.squeeze(read_rows(source, above, below), axis=2)
            if source.channels == 1
            else read_rows(source, above, below)
        )
    box = (0, first * ratio - above, old.width, min(last * ratio - above, part.height))
    resized = part.resize((size.width, last - first), method, box)
    return np.asarray(resized)[top - first : bottom - first]
