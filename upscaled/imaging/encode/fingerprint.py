"""Fingerprints: local means that identify a picture after lossy coding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from upscaled.imaging.raw import Pixels, picture

_CELL = 32
"""Side in pixels of the blocks whose means are compared."""


class Fingerprint:
    """The local means of a picture. Colour is weighted by its opacity."""

    def __init__(self, means: NDArray[np.float32]) -> None:
        self._means = means

    @classmethod
    def of(cls, pixels: Pixels) -> Fingerprint:
        """Return the fingerprint of grey, RGB or RGBA pixels, rows × columns × channels."""
        image = picture(pixels)
        if image.mode == "RGBA":
            image = image.convert("RGBa")
        return cls(np.asarray(image.reduce(_CELL), np.float32))

    def difference(self, other: Fingerprint) -> float:
        """Return the largest difference of a local mean, in levels."""
        return float(np.abs(self._means - other._means).max())
