"""Reads and writes rows of raw pictures, a strip at a time.

It uses plain reads, not a memory map: an imaging process has a bounded address space, and the file
of a huge picture can be larger.
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

    The height of each but the last is a multiple of ``multiple``.
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
    """Return pixels, rows × columns or rows × columns × channels, as a Pillow picture."""
    one_channel = pixels.ndim == 3 and pixels.shape[2] == 1
    return Image.fromarray(pixels[..., 0] if one_channel else pixels)


class RowWriter:
    """Writes the rows of a raw picture in order. A context manager."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def write(self, rows: Pixels) -> None:
        self._file.write(np.ascontiguousarray(rows).data)

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
