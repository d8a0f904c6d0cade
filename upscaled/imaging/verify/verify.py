"""Checks that the engine's picture is the enlarged source, block by block, a strip at a time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from upscaled.imaging.grey import luminance
from upscaled.imaging.raw import read_rows, strips
from upscaled.imaging.verify.comparison import BLOCK, compare
from upscaled.imaging.verify.thresholds import TRUSTED_LIMIT, UnlikeError
from upscaled.pictures import RawImage

_COMPARED_BYTES = 2 << 20
"""Most source bytes compared at a time; a comparison needs thirty times as much memory."""


def verify_rows(
    source: RawImage,
    native: RawImage,
    top: int,
    bottom: int,
    limit: float = TRUSTED_LIMIT,
    *,
    grey: bool = False,
    threads: int = 1,
) -> float:
    """Compare rows ``top`` to ``bottom`` of ``source`` with the same area of ``native``.

    Args:
        source: the prepared picture.
        native: the engine's output.
        top: first row of the source to compare.
        bottom: row after the last.
        limit: `TRUSTED_LIMIT`, or `CONFIRMABLE_LIMIT` for a confirmed picture.
        grey: the source is grey, so only the luminance of the engine's picture is compared.
        threads: most strips compared at a time.

    Returns:
        The score of the worst block: 1.0 for equal means, 0.0 at ``TRUSTED_LIMIT`` or beyond.

    Raises:
        UnlikeError: a block differs more than any network would change it.
    """
    scale = native.size.width // source.size.width
    if scale < 1 or native.size != source.size.times(scale):
        raise UnlikeError(f"The engine's picture is {native.size}, no multiple of {source.size}.")
    found = native.path.stat().st_size
    if found != native.total_bytes:
        raise UnlikeError(
            f"The engine's picture has {found} bytes, {native.total_bytes} were expected."
        )

    def worst_of(strip: tuple[int, int]) -> tuple[float, int, int]:
        first, last = strip
        enlarged = read_rows(native, first * scale, last * scale)
        picture = Image.fromarray(luminance(enlarged) if grey else enlarged).reduce(scale)
        reduced = np.asarray(picture.convert("RGB"))
        share, row, column = compare(read_rows(source, first, last), reduced).worst()
        return share, column * BLOCK, first + row * BLOCK

    spans = list(_strips(top, bottom, native.row_bytes * scale))
    largest = max(last - first for first, last in spans) * source.row_bytes
    at_once = min(len(spans), threads, max(1, _COMPARED_BYTES // largest))
    if at_once == 1:
        worst, x, y = max(map(worst_of, spans))
    else:
        with ThreadPoolExecutor(at_once) as pool:
            worst, x, y = max(pool.map(worst_of, spans))
    if worst > limit:
        raise UnlikeError(
            f"The engine's picture is unlike its source around x {x}, y {y} "
            f"({worst / TRUSTED_LIMIT:.1f} times the difference that is trusted)."
        )
    return max(0.0, 1 - worst / TRUSTED_LIMIT)


def _strips(top: int, bottom: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield strips of rows, each at least a block high unless it is the only one."""
    start = top
    for _, end in strips(bottom - top, row_bytes, BLOCK):
        if bottom - (top + end) < BLOCK:
            break
        yield start, top + end
        start = top + end
    yield start, bottom
