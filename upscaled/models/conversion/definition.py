"""What a network's definition makes of a test picture, tile by tile: the measure of conversions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from upscaled.engines.engine import PADDING
from upscaled.models.conversion.errors import ConversionError
from upscaled.models.conversion.layers import Floats
from upscaled.models.conversion.network import SourceNetwork
from upscaled.pictures import Size

SIZE = Size(44, 34)
"""Of the test picture: no multiple of the tiles or of a pixel unshuffle."""
TILES = (32, 64)
"""One that cuts the picture, and one that holds it."""

Pixels = NDArray[np.uint8]


def sample(size: Size = SIZE) -> Pixels:
    """Return a picture (height, width, 3) with slopes, edges, stripes and some noise."""
    rows, columns = np.mgrid[0 : size.height, 0 : size.width].astype(np.float32)
    random = np.random.default_rng(1)
    picture = np.stack(
        [
            255 * columns / size.width,
            255 * rows / size.height,
            127 + 90 * np.sin(columns / 5) * np.cos(rows / 7),
        ],
        axis=2,
    )
    picture[size.height // 4 : size.height // 2, size.width // 3 : size.width // 2] = (230, 40, 60)
    picture[::9, size.width // 2 :] *= 0.4
    picture += random.normal(0, 4, picture.shape)
    values: Pixels = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    return values


def by_definition(
    network: SourceNetwork, picture: Pixels, tile: int, *, threads: int = 1
) -> Pixels:
    """Return the enlarged picture, tile by tile, each with its padding, as engines cut them."""
    height, width, _ = picture.shape
    padded = np.pad(picture, ((PADDING, PADDING), (PADDING, PADDING), (0, 0)), mode="reflect")
    scale = network.scale
    result = np.zeros((height * scale, width * scale, 3), np.uint8)

    def fill(place: tuple[int, int]) -> None:
        top, left = place
        bottom, right = min(top + tile, height), min(left + tile, width)
        part = padded[top : bottom + 2 * PADDING, left : right + 2 * PADDING]
        made = _bytes(network.run(_planes(part)))
        rows, columns = (bottom - top) * scale, (right - left) * scale
        margin = PADDING * scale
        result[top * scale :, left * scale :][:rows, :columns] = made[
            margin : margin + rows, margin : margin + columns
        ]

    places = [(top, left) for top in range(0, height, tile) for left in range(0, width, tile)]
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(fill, places):
            pass  # raises what a tile raised
    return result


def expectations(network: SourceNetwork, *, threads: int = 1) -> dict[int, Pixels]:
    """Return what the definition computes, by tile size; blocking.

    Raises:
        ConversionError: the layers do not fit one another.
    """
    try:
        return {tile: by_definition(network, sample(), tile, threads=threads) for tile in TILES}
    except (ValueError, IndexError) as error:
        raise ConversionError(
            "The sizes of the network's layers do not fit one another; the file is damaged."
        ) from error


def decibels(one: Pixels, other: Pixels) -> float:
    """Return the peak signal-to-noise ratio of two pictures; 99 where they are equal."""
    error = float(np.mean((one.astype(np.float64) - other) ** 2))
    return 99.0 if error == 0 else min(99.0, 10 * float(np.log10(255**2 / error)))


def _planes(picture: Pixels) -> Floats:
    return np.ascontiguousarray(picture.transpose(2, 0, 1), np.float32) / np.float32(255)


def _bytes(planes: Floats) -> Pixels:
    if not np.isfinite(planes).all():
        raise ConversionError("The network computes numbers that are not finite; its weights are "
                              "damaged.")  # fmt: skip
    values = np.clip(np.rint(planes * np.float32(255)), 0, 255)
    return np.ascontiguousarray(values.transpose(1, 2, 0).astype(np.uint8))
