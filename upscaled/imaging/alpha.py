"""Transparency: fills the colour under transparent pixels and enlarges the alpha channel.

Transparent pixels often hold black or leftover colour. A network smears that colour into the
visible edge, as a dark halo. So it is replaced by visible colour from nearby before the picture is
enlarged.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from upscaled.imaging.raw import Pixels
from upscaled.imaging.resample import reader, resample
from upscaled.pictures import RawImage, Size

BLOCK = 8
"""Strips given to `bleed` start at multiples of this many rows."""

_Weighted = NDArray[np.float32]
"""Rows × columns × 4: colour times weight, then weight."""


def _halve(level: _Weighted) -> _Weighted:
    height, width = level.shape[:2]
    padded = np.pad(level, ((0, height % 2), (0, width % 2), (0, 0)))
    return padded[::2, ::2] + padded[1::2, ::2] + padded[::2, 1::2] + padded[1::2, 1::2]


def _weighted(rgb: Pixels, alpha: Pixels) -> _Weighted:
    weight = alpha.astype(np.float32)[..., None] / 255
    return np.concatenate((rgb * weight, weight), axis=2)


def _colour(level: _Weighted) -> NDArray[np.float32]:
    visible = np.maximum(level[..., 3:], 1e-6)
    return np.divide(level[..., :3], visible, dtype=np.float32)


def _filled(level: _Weighted, coarser: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the colours of ``level``; where nothing is visible, those of ``coarser``."""
    height, width = level.shape[:2]
    behind = coarser.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    return np.where(level[..., 3:] > 0, _colour(level), behind)


def coarse(rgb: Pixels, alpha: Pixels) -> _Weighted:
    """Return a strip's weighted colours in blocks of `BLOCK` pixels."""
    return _halve(_halve(_halve(_weighted(rgb, alpha))))


def fill(level: _Weighted) -> NDArray[np.float32]:
    """Return colours without gaps: each is visible at its place or nearby."""
    if level.shape[0] * level.shape[1] == 1:
        return _colour(level)
    return _filled(level, fill(_halve(level)))


def bleed(rgb: Pixels, alpha: Pixels, behind: NDArray[np.float32]) -> Pixels:
    """Return a strip whose transparent pixels have visible colour from nearby.

    Args:
        rgb: rows × columns × 3.
        alpha: rows × columns.
        behind: the strip's part of the `fill` of the whole picture.
    """
    if alpha.all():
        return rgb
    fine = _weighted(rgb, alpha)
    half = _halve(fine)
    quarter = _halve(half)
    colours = _filled(fine, _filled(half, _filled(quarter, behind)))
    return np.where(alpha[..., None] > 0, rgb, np.rint(colours).astype(np.uint8))


class Enlarger:
    """Enlarges an alpha channel to ``size``, a strip at a time.

    Resamples with Lanczos and clips the result to the range of the nine surrounding source pixels.
    So areas that are wholly opaque or transparent stay so, without ripples at their edges.
    """

    def __init__(self, alpha: RawImage, size: Size) -> None:
        self._old = alpha.size
        self._size = size
        self._read = reader(alpha)

    def rows(self, top: int, bottom: int) -> Pixels:
        """Return rows of the enlarged channel, rows × columns."""
        low = self._nearest(ImageFilter.MinFilter(3), top, bottom)
        high = self._nearest(ImageFilter.MaxFilter(3), top, bottom)
        smooth = resample(self._read, self._old, self._size, top, bottom)
        return np.clip(smooth, low, high)

    def _nearest(self, rank: ImageFilter.RankFilter, top: int, bottom: int) -> Pixels:
        def filtered(first: int, last: int) -> Image.Image:
            above, below = max(0, first - 1), min(self._old.height, last + 1)
            part = self._read(above, below).filter(rank)
            return part.crop((0, first - above, part.width, last - above))

        method = Image.Resampling.NEAREST
        return resample(filtered, self._old, self._size, top, bottom, method)
