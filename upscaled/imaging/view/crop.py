"""Cuts a part out of an upload, ready for an engine."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from upscaled.imaging import alpha as alphas
from upscaled.imaging.decode.prepare import load_turned
from upscaled.imaging.decode.reader import open_picture
from upscaled.imaging.grey import spread
from upscaled.imaging.prepared import ALPHA, SOURCE, Prepared
from upscaled.imaging.raw import Pixels
from upscaled.imaging.view.box import Box
from upscaled.imaging.view.rows import WholeRows
from upscaled.pictures import RawImage, Size


def crop(
    upload: Path, workdir: Path, box: Box, formats: Collection[str], max_pixels: int
) -> Prepared:
    """Decode a part of ``upload`` into ``workdir``, in sRGB.

    Raises:
        BadRequestError: the box is too large, or not within the picture.
        NotAPictureError: it is of none of ``formats``.
        UnusablePictureError: it can't be decoded.
        OSError: the files can't be written.
    """
    with open_picture(upload, formats, max_pixels) as opened:
        left, top, right, bottom = box.within(opened.size)
        load_turned(opened)
        pixels = WholeRows(opened).between(top, bottom)[:, left:right]
    size = Size(right - left, bottom - top)
    rgb = pixels[..., :3]
    alpha = pixels[..., 3] if pixels.shape[2] == 4 and (pixels[..., 3] < 255).any() else None
    if alpha is not None:
        rgb = _filled(rgb, alpha)
    source = RawImage(workdir / SOURCE, size)
    source.path.write_bytes(rgb.tobytes())
    channel = None
    if alpha is not None:
        channel = RawImage(workdir / ALPHA, size, 1)
        channel.path.write_bytes(alpha.tobytes())
    return Prepared(source, channel, None, grey=spread(rgb) == 0)


def _filled(rgb: Pixels, alpha: Pixels) -> Pixels:
    """Return colours that go on under transparent pixels, see `alphas.bleed`."""
    rgb, alpha = np.ascontiguousarray(rgb), np.ascontiguousarray(alpha)
    return alphas.bleed(rgb, alpha, alphas.fill(alphas.coarse(rgb, alpha)))
