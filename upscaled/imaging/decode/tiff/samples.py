"""The samples of a TIFF page: turns the bytes of strips and tiles into an array."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from upscaled.imaging.decode.tiff.chunks import chunks
from upscaled.imaging.decode.tiff.layout import CCITT, Compression, Layout, SampleKind
from upscaled.imaging.raw import Pixels

Samples = NDArray[Any]
"""Rows × columns × samples."""

_HORIZONTAL, _FLOATING = 2, 3
_UNPACKED_BYTES = 1 << 20
"""Of packed samples that are unpacked bit by bit at a time."""
_BT601 = (0.299, 0.587, 0.114)
_FULL_RANGE = (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)


def samples_of(layout: Layout) -> Samples:
    """Return all samples of a page, with the predictor undone; subsampled colours as RGB.

    Raises:
        UnusablePictureError: a strip or tile is broken.
        MemoryError: they do not fit.
    """
    size, chunk = layout.size, layout.chunk
    made: Samples = np.empty((size.height, size.width, layout.samples), _native_type(layout))
    per_plane = layout.across * layout.down
    for number, content in chunks(layout):
        plane, index = divmod(number, per_plane)
        row, column = divmod(index, layout.across)
        top, left = row * chunk.height, column * chunk.width
        bottom, right = min(top + chunk.height, size.height), min(left + chunk.width, size.width)
        found = _numbers(layout, content)[: bottom - top, : right - left]
        if layout.planar:
            made[top:bottom, left:right, plane] = found[..., 0]
        else:
            made[top:bottom, left:right] = found
    return made


def _native_type(layout: Layout) -> np.dtype[Any]:
    letter = {SampleKind.UNSIGNED: "u", SampleKind.SIGNED: "i", SampleKind.FLOAT: "f"}[layout.kind]
    size = next(size for size in (1, 2, 4, 8) if 8 * size >= layout.bits)
    return np.dtype(f"{letter}{size}")


def _numbers(layout: Layout, content: Pixels) -> Samples:
    """Return the samples of one chunk, rows × columns × samples."""
    samples, width = layout.samples_per_chunk, layout.chunk.width
    if layout.compression in {Compression.JPEG, Compression.WEBP, *CCITT}:
        return content if content.ndim == 3 else content[..., None]
    if layout.subsampled:
        return _from_units(layout, content)
    rows = content.shape[0]
    if layout.predictor == _FLOATING:
        return _unpredicted_floats(layout, content).reshape(rows, width, samples)
    if layout.bits % 8:
        return _unpacked(layout, content).reshape(rows, width, samples)
    native = _native_type(layout)
    stored = np.dtype(layout.directory.file.order + native.str[1:])
    numbers = np.ascontiguousarray(content).view(stored).astype(native)
    numbers = numbers.reshape(rows, width, samples)
    if layout.predictor == _HORIZONTAL:
        whole = numbers.view(np.dtype(f"u{native.itemsize}"))
        numbers = np.cumsum(whole, axis=1, dtype=whole.dtype).view(native)
    return numbers


def _unpredicted_floats(layout: Layout, content: Pixels) -> Samples:
    """Undo predictor 3: byte differences, with the most significant bytes of all samples first."""
    rows, row_bytes = content.shape
    stride, size = layout.samples_per_chunk, layout.bits // 8
    steps = content.reshape(rows, row_bytes // stride, stride)
    summed = np.cumsum(steps, axis=1, dtype=np.uint8).reshape(rows, size, row_bytes // size)
    big_endian = np.ascontiguousarray(summed.transpose(0, 2, 1))
    return big_endian.view(f">f{size}").astype(_native_type(layout))


def _unpacked(layout: Layout, content: Pixels) -> Samples:
    """Return samples that do not fill bytes; they are packed from the highest bit."""
    rows, row_bytes = content.shape
    bits, count = layout.bits, layout.chunk.width * layout.samples_per_chunk
    made: Samples = np.empty((rows, count), _native_type(layout))
    weights = 1 << np.arange(bits - 1, -1, -1, dtype=np.uint32)
    step = max(1, _UNPACKED_BYTES // row_bytes)
    for top in range(0, rows, step):
        flat = np.unpackbits(content[top : top + step], axis=1)[:, : count * bits]
        made[top : top + step] = flat if bits == 1 else flat.reshape(-1, count, bits) @ weights
    return made


def _from_units(layout: Layout, content: Pixels) -> Samples:
    """Return RGB from YCbCr units: the luma of some pixels, then their two colour differences."""
    across, down = layout.subsampling
    rows, row_bytes = content.shape
    units = content.reshape(rows, row_bytes // (across * down + 2), across * down + 2)
    blocks = units[..., :-2].reshape(rows, -1, down, across).transpose(0, 2, 1, 3)
    light = blocks.reshape(rows * down, -1)
    blue, red = (
        units[..., channel].repeat(down, axis=0).repeat(across, axis=1) for channel in (-2, -1)
    )
    both = np.stack((light, blue, red), axis=2)[: layout.chunk.height, : layout.chunk.width]
    return rgb_of_ycbcr(layout, both)


def rgb_of_ycbcr(layout: Layout, pixels: Pixels) -> Pixels:
    """Return the RGB of YCbCr pixels, by the file's coefficients and range."""
    coefficients = layout.directory.numbers(529)
    red_share, green_share, blue_share = coefficients if len(coefficients) == 3 else _BT601
    told = layout.directory.numbers(532)
    limits = told if len(told) == 6 else _FULL_RANGE
    black, white, blue_zero, blue_most, red_zero, red_most = limits
    values = pixels.astype(np.float32)
    light = (values[..., 0] - black) * (255 / ((white - black) or 255))
    blue = (values[..., 1] - blue_zero) * (127 / ((blue_most - blue_zero) or 127))
    red = (values[..., 2] - red_zero) * (127 / ((red_most - red_zero) or 127))
    r = light + red * (2 - 2 * red_share)
    b = light + blue * (2 - 2 * blue_share)
    g = (light - red_share * r - blue_share * b) / (green_share or 1)
    made = np.stack((r, g, b), axis=-1)
    rgb: Pixels = np.clip(np.rint(made), 0, 255).astype(np.uint8)
    return rgb
