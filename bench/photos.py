"""Pictures of any size, cut from real photos: the same ones every time."""

from __future__ import annotations

import functools
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

_FOLDER = Path(__file__).parent.parent / "tests" / "data"
_NAMES = ("astronaut.png", "coffee.jpg", "chelsea.webp")


@functools.cache
def _photos() -> list[Pixels]:
    photos = []
    for name in _NAMES:
        with Image.open(_FOLDER / name) as image:
            photos.append(np.asarray(image.convert("RGB")))
    return photos


def crop(number: int, side: int) -> Pixels:
    """Return the ``number``-th square of a photo; a thousand numbers give different ones."""
    photos = _photos()
    source = photos[number % len(photos)]
    height, width, _ = source.shape
    top = (number * 89) % (height - side)
    left = (number * 61) % (width - side)
    return np.ascontiguousarray(source[top : top + side, left : left + side])


def photo(width: int, height: int) -> Pixels:
    """Return a picture of this size with a photo's detail everywhere, mirrored to and fro.

    An enlarged photo would be smoother, and quicker to encode, than pictures of that size are.
    512 × 512 is one whole photo.
    """
    tile = _photos()[0]
    rows = _to_and_fro(height, tile.shape[0])
    columns = _to_and_fro(width, tile.shape[1])
    picture = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, 256):  # in strips: indexing makes copies
        picture[top : top + 256] = tile[rows[top : top + 256, None], columns]
    return picture


def _to_and_fro(length: int, period: int) -> NDArray[np.intp]:
    positions = np.arange(length) % (2 * period)
    return np.minimum(positions, 2 * period - 1 - positions)


def save(pixels: Pixels, path: Path) -> Path:
    """Write ``pixels`` to the file ``path``, lightly compressed, and return it."""
    Image.fromarray(pixels).save(path, compress_level=1)
    return path


def png(pixels: Pixels) -> bytes:
    """Return ``pixels`` as a PNG."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()
