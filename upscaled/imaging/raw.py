"""Rows of raw pictures, read and written a strip at a time.

Plain reads instead of a memory map: the address space of an imaging process is bounded, a huge
picture's file may be larger than that.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from upscaled import files
from upscaled.pictures import RawImage

Pixels = NDArray[np.uint8]
"""Rows × columns × channels."""

_STRIP_BYTES = 8 << 20


def strips(height: int, row_bytes: int, multiple: int = 1) -> Iterator[tuple[int, int]]:
    """Yield ``(top, bottom)`` of strips of a few megabytes.

    Each but the last has a height that ``multiple`` divides.
    """
    rows = max(1, _STRIP_BYTES // (row_bytes * multiple)) * multiple
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def read_rows(raw: RawImage, top: int, bottom: int) -> Pixels:
    """Return rows ``top`` (included) to ``bottom`` (excluded).

    Raises:
        EOFError: the file is shorter than that.
        OSError: it is a link, or cannot be read.
    """
    count = (bottom - top) * raw.row_bytes
    with open(raw.path, "rb", opener=files.no_follow) as file:
        pixels = np.fromfile(file, np.uint8, count, offset=top * raw.row_bytes)
    if pixels.size != count:
        raise EOFError(f"{raw.path.name} ends after {raw.path.stat().st_size} bytes")
    return pixels.reshape(bottom - top, raw.size.width, raw.channels)


def picture(pixels: Pixels) -> Image.Image:
    """Return pixels, rows × columns or rows × columns × channels, as Pillow's picture of them."""
    one_channel = pixels.ndim == 3 and pixels.shape[2] == 1
    return Image.fromarray(pixels[..., 0] if one_channel else pixels)


class RowWriter:
    """Writes a raw picture's rows one strip after another. A context manager."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def write(self, rows: Pixels) -> None:
        """Append ``rows``."""
        self._file.write(np.ascontiguousarray(rows).data)

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
