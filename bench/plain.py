"""The plain loop that the service is compared with: ncnn, numpy and nothing else.

It starts from decoded pixels and discards the result: it does not decode, encode or verify. Tiles
and padding are those of the service, ncnn's options are the library's defaults, and numpy converts
floats to bytes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import ncnn
import numpy as np
from numpy.typing import NDArray

from upscaled.engines.builtin.tiling import Tile, plan_tiles, reflected
from upscaled.engines.engine import PADDING

Pixels = NDArray[np.uint8]


class PlainLoop:
    """A network, loaded once, on all cores (-1) or on the Vulkan device ``device``."""

    def __init__(self, models: Path, name: str, device: int = -1) -> None:
        self._net = ncnn.Net()
        if device >= 0:
            self._net.opt.use_vulkan_compute = True
            self._net.set_vulkan_device(device)
        if self._net.load_param(str(models / f"{name}.param")) or self._net.load_model(
            str(models / f"{name}.bin")
        ):
            raise OSError(f"{models / name} can't be loaded.")

    def tile(self, picture: Pixels, place: Tile) -> Pixels:
        """Upscale one tile of ``picture`` with padding; return it without the padding."""
        height, width, _ = picture.shape
        rows = reflected(place.top, place.bottom, height)
        columns = reflected(place.left, place.right, width)
        padded = np.ascontiguousarray(picture[rows[:, None], columns])
        blob = ncnn.Mat.from_pixels(
            padded, ncnn.Mat.PixelType.PIXEL_RGB, padded.shape[1], padded.shape[0]
        )
        blob.substract_mean_normalize([], [1 / 255.0] * 3)
        extractor = self._net.create_extractor()
        extractor.input("data", blob)
        _, output = extractor.extract("output")
        planes = np.array(output)
        border = PADDING * planes.shape[2] // padded.shape[1]
        inner = planes[:, border:-border, border:-border]
        return np.clip(inner * 255 + 0.5, 0, 255).astype(np.uint8).transpose(1, 2, 0)

    def seconds(self, picture: Pixels, tiles: Iterable[Tile]) -> float:
        """Return the seconds that ``tiles`` of ``picture`` take."""
        began = time.perf_counter()
        for place in tiles:
            self.tile(picture, place)
        return time.perf_counter() - began


def tiles_of(picture: Pixels, side: int) -> list[Tile]:
    """Return all tiles of ``picture``, row by row."""
    height, width, _ = picture.shape
    return [place for row in plan_tiles(width, 0, height, side) for place in row]


def area(tiles: Sequence[Tile]) -> int:
    """Return how many pixels the network computes for ``tiles``, padding included."""
    return sum(
        (place.right - place.left + 2 * PADDING) * (place.bottom - place.top + 2 * PADDING)
        for place in tiles
    )
