"""Pictures of any size, cut from real photos: the same arguments give the same picture."""

from __future__ import annotations

import functools
import io
import itertools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from testkit.paths import DATA
from testkit.pictures import encoded

Pixels = NDArray[np.uint8]

_NAMES = ("astronaut.png", "coffee.jpg", "chelsea.webp")
_PIECE = 256  # pixels


@functools.cache
def _photos() -> list[Pixels]:
    photos = []
    for name in _NAMES:
        with Image.open(DATA / name) as image:
            photos.append(np.asarray(image.convert("RGB")))
    return photos


def crop(number: int, side: int) -> Pixels:
    """Return a square of a photo; the first thousand numbers give different ones."""
    photos = _photos()
    source = photos[number % len(photos)]
    height, width, _ = source.shape
    top = (number * 89) % (height - side)
    left = (number * 61) % (width - side)
    return np.ascontiguousarray(source[top : top + side, left : left + side])


def resized(width: int, height: int, kind: str = "PNG") -> bytes:
    """Return a photo in this size as a file of Pillow's format ``kind``."""
    return encoded(Image.fromarray(_photos()[1]).resize((width, height)), kind)


def photo(width: int, height: int) -> Pixels:
    """Return a picture of this size with a photo's detail everywhere.

    Up to 512 × 512 it is the centre of one photo. A larger picture consists of many different
    pieces: an enlarged photo would be smoother than real pictures of that size, and a repeated one
    would compress better.
    """
    whole = _photos()[0]
    top, left = (whole.shape[0] - height) // 2, (whole.shape[1] - width) // 2
    if top >= 0 and left >= 0:
        return np.ascontiguousarray(whole[top : top + height, left : left + width])
    picture = np.empty((height, width, 3), np.uint8)
    places = itertools.product(range(0, height, _PIECE), range(0, width, _PIECE))
    for number, (upper, side) in enumerate(places):
        room = picture[upper : upper + _PIECE, side : side + _PIECE]
        turned = np.rot90(crop(number, _PIECE), number // len(_NAMES) % 4)
        room[:] = turned[: room.shape[0], : room.shape[1]]
    return picture


def save(pixels: Pixels, path: Path) -> Path:
    """Write ``pixels`` to ``path`` with light compression, and return ``path``."""
    Image.fromarray(pixels).save(path, compress_level=1)
    return path


def png(pixels: Pixels) -> bytes:
    """Return ``pixels`` as a PNG."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()
