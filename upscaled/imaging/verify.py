"""Is the engine's picture the enlarged source? Checked block by block.

Reduced to its source's size, a good result has the source's local means, whatever the network
did to its texture.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from upscaled.imaging.raw import Pixels, read_rows, strips
from upscaled.imaging.records import UnlikeError
from upscaled.pictures import RawImage

BLOCK = 16
"""Side of a block in source pixels."""

_BASE_TOLERANCE = 16.0
_CONTRAST_SHARE = 0.75


def likeness(source: RawImage, native: RawImage, top: int, bottom: int) -> float:
    """Compare rows ``top`` to ``bottom`` of ``source`` with what ``native`` has there.

    Returns:
        The score of the worst block: 1.0 for equal means, 0.0 at the edge of refusal.

    Raises:
        UnlikeError: a block differs more than any network would change it.
    """
    scale = native.size.width // source.size.width
    if native.size != source.size.times(scale):
        raise UnlikeError(f"The engine's picture is {native.size}, no multiple of {source.size}.")
    found = native.path.stat().st_size
    if found != native.total_bytes:
        raise UnlikeError(
            f"The engine's picture has {found} bytes, {native.total_bytes} were expected."
        )
    worst, where = 0.0, (0, 0)
    for first, last in strips(bottom - top, native.row_bytes * scale, BLOCK):
        a, b = top + first, top + last
        reduced = Image.fromarray(read_rows(native, a * scale, b * scale)).reduce(scale)
        ratios = _deviations(read_rows(source, a, b), np.asarray(reduced))
        index = int(ratios.argmax())
        if ratios.flat[index] > worst:
            row, column = divmod(index, ratios.shape[1])
            worst, where = float(ratios.flat[index]), (column * BLOCK, a + row * BLOCK)
    if worst > 1 or math.isnan(worst):
        raise UnlikeError(
            f"The engine's picture is unlike its source around x {where[0]}, y {where[1]} "
            f"({worst:.1f} times the largest difference that is allowed)."
        )
    return 1 - worst


def _deviations(source: Pixels, reduced: Pixels) -> NDArray[np.float64]:
    """Return each block's difference as a share of what is allowed there."""
    a, b = source.astype(np.float32), reduced.astype(np.float32)
    difference = np.abs(_means(b - a)).max(axis=2)
    means = _means(a)
    spread = np.sqrt(np.maximum(_means(a * a) - means * means, 0)).max(axis=2)
    ratios: NDArray[np.float64] = difference / (_BASE_TOLERANCE + _CONTRAST_SHARE * spread)
    return ratios


def _means(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the means of blocks, the last row and column of them smaller where it must be."""
    rows = np.arange(0, values.shape[0], BLOCK)
    columns = np.arange(0, values.shape[1], BLOCK)
    sums = np.add.reduceat(np.add.reduceat(values, rows, axis=0), columns, axis=1)
    heights = np.diff(np.append(rows, values.shape[0]))
    widths = np.diff(np.append(columns, values.shape[1]))
    means: NDArray[np.float64] = sums / np.outer(heights, widths)[..., None]
    return means
