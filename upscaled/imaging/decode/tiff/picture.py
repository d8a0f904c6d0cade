"""Decodes a TIFF page to 8-bit colours in one of Pillow's modes, and its transparency."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from upscaled.errors import UnusablePictureError
from upscaled.formats import TIFF
from upscaled.imaging.decode.decoded import Decoded
from upscaled.imaging.decode.refusals import broken
from upscaled.imaging.decode.tiff.layout import (
    COLOURS,
    Compression,
    Extra,
    Layout,
    Photometric,
    SampleKind,
)
from upscaled.imaging.decode.tiff.samples import Samples, rgb_of_ycbcr, samples_of
from upscaled.imaging.raw import Pixels, strips

_MODES = {
    Photometric.WHITE_IS_ZERO: "L",
    Photometric.BLACK_IS_ZERO: "L",
    Photometric.RGB: "RGB",
    Photometric.PALETTE: "RGB",
    Photometric.SEPARATED: "CMYK",
    Photometric.YCBCR: "RGB",
    Photometric.CIELAB: "LAB",
    Photometric.ICCLAB: "LAB",
}
_ICC_LAB_WHITE = 0xFF00
"""L* 100 in ICCLab with 16 bits (TIFF technical note 4)."""
_SIXTEEN_BITS = 0xFFFF
_WHITE_UNKNOWN = 1 << 24
"""The white level is unknown for 32-bit integers up to this, but above 16 bits."""


def mode_of(layout: Layout) -> str:
    """Return Pillow's mode of the decoded page."""
    return _MODES[layout.photometric]


def alpha_index(layout: Layout) -> int | None:
    """Return the index of the transparency sample; None without one."""
    first = COLOURS[layout.photometric]
    for index, extra in enumerate(layout.extras):
        if extra in {Extra.ALPHA, Extra.PREMULTIPLIED}:
            return first + index
    # Most programs read a single undescribed extra sample as transparency.
    return first if layout.extras == (None,) else None


def decode(layout: Layout) -> Decoded:
    """Return the page's pixels.

    Raises:
        UnusablePictureError: a strip or tile is broken, or the samples do not say what is white.
        MemoryError: the page does not fit.
    """
    samples = samples_of(layout)
    if layout.photometric in {Photometric.CIELAB, Photometric.ICCLAB}:
        return _decoded_lab(layout, samples)
    index = alpha_index(layout)
    colours = COLOURS[layout.photometric]
    scale = _Scale(layout, samples)
    made = np.empty((layout.size.height, layout.size.width, _channels(layout)), np.uint8)
    alpha = None if index is None else np.empty(made.shape[:2], np.uint8)
    palette = _palette(layout) if layout.photometric is Photometric.PALETTE else None
    row_bytes = samples.strides[0]
    for top, bottom in strips(layout.size.height, row_bytes):
        part = samples[top:bottom]
        if palette is not None:
            made[top:bottom] = palette[np.minimum(part[..., 0], len(palette) - 1)]
        else:
            made[top:bottom] = _coloured(layout, scale.to_8_bit(part[..., :colours]))
        if alpha is not None:
            alpha[top:bottom] = scale.to_8_bit(part[..., index])
    if alpha is not None and layout.extras == (None,) and not alpha.any():
        alpha = None  # an unused fourth byte, not an invisible picture
    if alpha is not None and Extra.PREMULTIPLIED in layout.extras[:1]:
        _divide(made, alpha)
    return Decoded(_image(mode_of(layout), made), alpha)


def _channels(layout: Layout) -> int:
    return {"L": 1, "RGB": 3, "CMYK": 4, "LAB": 3}[mode_of(layout)]


def _coloured(layout: Layout, pixels: Pixels) -> Pixels:
    if layout.photometric is Photometric.WHITE_IS_ZERO:
        return 255 - pixels
    in_file = layout.photometric is Photometric.YCBCR and layout.compression is not Compression.JPEG
    return rgb_of_ycbcr(layout, pixels) if in_file and not layout.subsampled else pixels


class _Scale:
    """Converts samples to 8 bits. Whole numbers use all values of their type."""

    def __init__(self, layout: Layout, samples: Samples) -> None:
        self._low, self._high = 0.0, float((1 << layout.bits) - 1)
        if layout.kind is SampleKind.FLOAT:
            self._high = 1.0
            _check_floats(samples, COLOURS[layout.photometric])
        elif layout.kind is SampleKind.SIGNED:
            self._high = float((1 << (layout.bits - 1)) - 1)
            # Most programs that write signed samples write none below zero.
            self._low = -self._high - 1 if samples.min() < 0 else 0.0
        if layout.kind is not SampleKind.FLOAT and layout.bits > 16:
            high = float(samples.max())
            if self._low == 0 and high <= _SIXTEEN_BITS:
                self._high = float(_SIXTEEN_BITS)
            elif high < _WHITE_UNKNOWN:
                raise UnusablePictureError(
                    f"The picture's {layout.bits}-bit samples go up to {high:g}, so the value of "
                    "white is unknown; send 8 or 16 bits a sample."
                )
        self._table: Pixels | None = None
        if layout.kind is SampleKind.UNSIGNED and layout.bits <= 16:
            levels = np.arange(1 << layout.bits) * (255 / self._high)
            self._table = np.rint(levels).astype(np.uint8)

    def to_8_bit(self, samples: Samples) -> Pixels:
        if self._table is not None:
            return samples if len(self._table) == 256 else self._table[samples]
        values = (samples.astype(np.float64) - self._low) * (255 / (self._high - self._low))
        return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _check_floats(samples: Samples, colours: int) -> None:
    if not np.isfinite(samples).all():
        raise UnusablePictureError(
            "The picture has samples that are not numbers; send 8 or 16 bits a sample."
        )
    low, high = float(samples[..., :colours].min()), float(samples[..., :colours].max())
    if not 0 <= low <= high <= 1:
        raise UnusablePictureError(
            f"The picture's floating-point samples go from {low:g} to {high:g}, so the value of "
            "white is unknown; send 8 or 16 bits a sample."
        )


def _palette(layout: Layout) -> Pixels:
    """Return the palette, colours × 3."""
    values = np.array(layout.directory.integers(320), np.int64)
    count = 1 << layout.bits
    if len(values) != 3 * count:
        raise broken(TIFF, f"its palette has {len(values)} values, not {3 * count}")
    # TIFF requires 16 bits; some programs write 8.
    levels = values if values.max() < 256 else np.rint(values / 257)
    return levels.reshape(3, count).T.astype(np.uint8)


def _divide(colour: Pixels, alpha: Pixels) -> None:
    """Divide colours by their transparency, in place."""
    for top, bottom in strips(colour.shape[0], 16 * colour.shape[1]):
        share = np.maximum(alpha[top:bottom, :, None].astype(np.float32), 1) / 255
        values = np.rint(colour[top:bottom] / share)
        colour[top:bottom] = np.minimum(values, 255).astype(np.uint8)


def _decoded_lab(layout: Layout, samples: Samples) -> Decoded:
    deep = layout.bits == 16
    made = np.empty((*samples.shape[:2], 3), np.uint8)
    for top, bottom in strips(layout.size.height, samples.strides[0]):
        part = samples[top:bottom, :, :3].astype(np.int32)
        light, axes = part[..., :1], part[..., 1:]
        white = (
            (_ICC_LAB_WHITE if layout.photometric is Photometric.ICCLAB else 65535) if deep else 255
        )
        light = np.rint((light & 0xFFFF if deep else light & 0xFF) * (255 / white))
        if layout.photometric is Photometric.ICCLAB:  # offset by half the range
            axes = np.rint((axes & 0xFFFF) / 256) if deep else axes & 0xFF
        else:  # signed
            axes = axes.astype(np.int16 if deep else np.int8).astype(np.float32)
            axes = (np.rint(axes / 256) if deep else axes) + 128
        made[top:bottom] = np.clip(np.concatenate((light, axes), axis=2), 0, 255).astype(np.uint8)
    index = alpha_index(layout)
    alpha: NDArray[Any] | None = None
    if index is not None:
        raw = samples[..., index]
        alpha = (np.rint(raw / 257) if deep else raw).astype(np.uint8)
    # Pillow keeps the two axes offset by 128, and its unpacker adds that to signed ones.
    made[..., 1:] ^= 0x80
    return Decoded(_image("LAB", made), alpha)


def _image(mode: str, pixels: Pixels) -> Image.Image:
    size = (pixels.shape[1], pixels.shape[0])
    return Image.frombytes(mode, size, pixels, "raw", mode)
