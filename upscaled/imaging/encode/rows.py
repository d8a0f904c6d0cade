"""The pixels of the result, any rows: at the promised size, with transparency."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageCms

from upscaled.formats import result_format
from upscaled.imaging.alpha import Enlarger
from upscaled.imaging.decode.colour import in_profile, profile_to_srgb
from upscaled.imaging.grey import luminance
from upscaled.imaging.metadata.sidecar import Metadata
from upscaled.imaging.prepared import Prepared
from upscaled.imaging.raw import Pixels, read_rows
from upscaled.imaging.resample import reader, resample
from upscaled.imaging.result import FinishOptions
from upscaled.imaging.row_map import RowMap
from upscaled.pictures import RawImage


class ResultRows:
    """Computes rows of the result from the engine's output.

    Args:
        prepared: the picture.
        native: its enlargement by the engine.
        options: what the caller requested.
    """

    def __init__(self, prepared: Prepared, native: RawImage, options: FinishOptions) -> None:
        self._native = native
        self.size = options.size
        self.map = RowMap(native.size, options.size)
        self._read = reader(native)
        self._enlarger = Enlarger(prepared.alpha, options.size) if prepared.alpha else None
        row = result_format(options.format)
        self._flat = not row.has_alpha
        icc = Metadata.load(prepared.sidecar).icc
        self._to_srgb = profile_to_srgb(icc) if icc and not options.keep_metadata else None
        background = options.background
        if icc and options.keep_metadata and prepared.alpha is not None:
            # The caller's colour is sRGB; the pixels are in the picture's profile.
            background = in_profile(background, icc)
        self._grey = prepared.grey
        coloured = self._flat and self._enlarger is not None and len(set(background)) > 1
        self._one_channel = prepared.grey and row.has_grey and not coloured
        self._background = np.array(background, np.float32)

    @property
    def channels(self) -> int:
        """1 for grey, 2 for grey and alpha, 3 for RGB, 4 for RGBA."""
        colours = 1 if self._one_channel else 3
        return colours + (self._enlarger is not None and not self._flat)

    def get(self, top: int, bottom: int) -> Pixels:
        """Return rows ``top`` to ``bottom``, rows × columns × `channels`."""
        if self.map.resampled:
            pixels = resample(self._read, self._native.size, self.size, top, bottom)
        else:
            pixels = read_rows(self._native, top, bottom)
        if self._to_srgb is not None:
            converted = ImageCms.applyTransform(Image.fromarray(pixels), self._to_srgb)
            pixels = np.asarray(converted)
        if self._grey:
            grey = luminance(pixels)[..., None]
            pixels = grey if self._one_channel else np.repeat(grey, 3, axis=2)
        if self._enlarger is None:
            return pixels
        alpha = self._enlarger.rows(top, bottom)[..., None]
        if not self._flat:
            return np.concatenate((pixels, alpha), axis=2)
        share = alpha.astype(np.float32) / 255
        background = self._background[: pixels.shape[2]]
        return np.rint(pixels * share + background * (1 - share)).astype(np.uint8)
