"""Fingerprints: local means that identify a picture after lossy coding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from upscaled.imaging.raw import Pixels, picture

_CELL = 32
"""Side in pixels of the blocks whose means are compared."""
_FULL_SIDE = 24
"""Blocks at the edges that are narrower or lower than this count less. Over few pixels, errors of
lossy coding do not cancel out: with noise in black and white, the mean of a single pixel moves by
20 times the limit for whole blocks. With this weight, none of 10,000 such files exceeds it."""


class Fingerprint:
    """The local means of a picture. Colour is weighted by its opacity."""

    def __init__(self, means: NDArray[np.float32], weights: NDArray[np.float32]) -> None:
        self._means = means
        self._weights = weights if means.ndim == 2 else weights[..., None]

    @classmethod
    def of(cls, pixels: Pixels) -> Fingerprint:
        """Return the fingerprint of grey, RGB or RGBA pixels, rows × columns × channels."""
        image = picture(pixels)
        if image.mode == "RGBA":
            image = image.convert("RGBa")
        weights = np.outer(_weights(image.height), _weights(image.width))
        return cls(np.asarray(image.reduce(_CELL), np.float32), weights)

    def difference(self, other: Fingerprint) -> float:
        """Return the largest difference of a local mean, in levels; less for smaller blocks."""
        return float((np.abs(self._means - other._means) * self._weights).max())


def _weights(side: int) -> NDArray[np.float32]:
    """Return the weights of blocks along a side of the picture."""
    weights = np.ones(-(-side // _CELL), np.float32)
    last = side - (len(weights) - 1) * _CELL
    weights[-1] = min(1.0, last / _FULL_SIDE)
    return weights
