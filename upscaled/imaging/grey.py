"""Grey pictures: detects them, and makes their enlargement grey again.

Networks add colour: they make screentones pink and 1-bit photos violet. So a picture without colour
is marked when it is decoded, and its enlargement is reduced to luminance.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from upscaled.imaging.raw import Pixels, read_rows, strips
from upscaled.pictures import RawImage

CONVERTED_SPREAD = 2
"""Largest difference in levels between the channels of a grey picture after a colour conversion,
due to rounding. A profile that tints grey causes larger differences."""


def spread(rgb: Pixels) -> int:
    """Return the largest difference in levels between the channels of a pixel; 0: exactly grey."""
    red, green, blue = (rgb[..., channel] for channel in range(3))
    if np.array_equal(red, green) and np.array_equal(green, blue):
        return 0
    least = np.minimum(np.minimum(red, green), blue)
    return int((np.maximum(np.maximum(red, green), blue) - least).max())


def luminance(rgb: Pixels) -> Pixels:
    """Return the luma of RGB pixels (ITU-R BT.601), rows × columns."""
    return np.asarray(Image.fromarray(rgb).convert("L"))


def converted_levels(transform: ImageCms.ImageCmsTransform) -> Pixels | None:
    """Return the result of ``transform`` for each of the 256 greys; None if it adds colour."""
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    made = ImageCms.applyTransform(Image.fromarray(ramp), transform)
    rgb = np.asarray(made)
    return luminance(rgb)[:, 0] if spread(rgb) <= CONVERTED_SPREAD else None


def make_grey(source: RawImage, levels: Pixels | None = None) -> None:
    """Replace each pixel of ``source`` by its luminance, mapped by ``levels`` if given."""
    path: Path = source.path
    with path.open("r+b") as file:
        for top, bottom in strips(source.size.height, source.row_bytes):
            grey = luminance(read_rows(source, top, bottom))
            grey = grey if levels is None else levels[grey]
            file.seek(top * source.row_bytes)
            file.write(np.repeat(grey[..., None], 3, axis=2).data)
