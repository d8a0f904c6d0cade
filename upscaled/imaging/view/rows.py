"""The rows of a picture in sRGB, from top to bottom, as far as possible without decoding it whole.

PNGs without interlacing and JPEGs with a restart marker after each row of blocks, which our own
results have, are decoded a strip at a time. All others are decoded whole, as a job decodes its
upload.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageCms

from upscaled.formats import JPEG, PNG
from upscaled.imaging.decode.colour import Colours, codes_of, profile_to_srgb
from upscaled.imaging.decode.prepare import load_turned
from upscaled.imaging.decode.reader import Opened, open_picture
from upscaled.imaging.raw import Pixels
from upscaled.imaging.view.jpeg_strips import jpeg_strips
from upscaled.imaging.view.png_strips import png_strips
from upscaled.pictures import Size


class Rows(Protocol):
    """Rows of a picture, each strip once and in order."""

    size: Size

    def strips(self, height: int) -> Iterator[Pixels]:
        """Yield strips of ``height`` rows, the last one perhaps lower: RGB or RGBA."""
        ...


@contextmanager
def open_rows(path: Path, formats: Collection[str], max_pixels: int) -> Iterator[Rows]:
    """Open the picture at ``path``.

    Raises:
        NotAPictureError: it is of none of ``formats``.
        UnusablePictureError: it can't be decoded.
    """
    with open_picture(path, formats, max_pixels) as opened:
        streamed = _streamed(opened)
        if streamed is not None:
            yield streamed
            return
        load_turned(opened)
        yield WholeRows(opened)


class WholeRows:
    """A picture that is decoded whole."""

    def __init__(self, opened: Opened) -> None:
        self.size = opened.size
        self._colours = Colours(opened)
        icc = self._colours.icc
        self._to_srgb = profile_to_srgb(icc) if icc else None

    def between(self, top: int, bottom: int) -> Pixels:
        """Return rows ``top`` to ``bottom``."""
        rgb, alpha = self._colours.rgb_and_alpha(top, bottom)
        if self._to_srgb is not None:
            rgb = np.asarray(ImageCms.applyTransform(Image.fromarray(rgb), self._to_srgb))
        return rgb if alpha is None else np.concatenate((rgb, alpha[..., None]), axis=2)

    def strips(self, height: int) -> Iterator[Pixels]:
        for top in range(0, self.size.height, height):
            yield self.between(top, min(top + height, self.size.height))


class _StreamedRows:
    """A picture that is decoded a strip at a time; its samples are grey or RGB of 8 bits."""

    def __init__(self, opened: Opened, pictures: Iterator[Image.Image]) -> None:
        self.size = opened.size
        self._pictures = pictures
        self._to_srgb = profile_to_srgb(opened.icc) if opened.icc else None

    def strips(self, height: int) -> Iterator[Pixels]:
        kept: list[Pixels] = []
        count = 0
        for picture in self._pictures:
            kept.append(self._converted(picture))
            count += kept[-1].shape[0]
            while count >= height:
                joined = np.concatenate(kept) if len(kept) > 1 else kept[0]
                yield joined[:height]
                kept = [joined[height:]]
                count -= height
        if count:
            yield np.concatenate(kept)

    def _converted(self, strip: Image.Image) -> Pixels:
        alpha = strip.getchannel("A") if strip.mode in {"LA", "RGBA"} else None
        rgb = strip if strip.mode == "RGB" else strip.convert("RGB")
        if self._to_srgb is not None:
            rgb = ImageCms.applyTransform(rgb, self._to_srgb) or rgb
        pixels = np.asarray(rgb)
        if alpha is None:
            return pixels
        return np.concatenate((pixels, np.asarray(alpha)[..., None]), axis=2)


def _streamed(opened: Opened) -> Rows | None:
    """Return the rows of a picture that can be decoded a strip at a time; None if it can't be."""
    if opened.orientation != 1 or opened.depth != 8 or opened.page is not None:
        return None
    if opened.image.mode not in {"L", "LA", "RGB", "RGBA"} or _has_other_colours(opened):
        return None
    if opened.format is PNG:
        pictures = png_strips(opened.path)
    elif opened.format is JPEG:
        pictures = jpeg_strips(opened.path, opened.size)
    else:
        return None
    return None if pictures is None else _StreamedRows(opened, pictures)


def _has_other_colours(opened: Opened) -> bool:
    """Tell whether more than a profile decides about the colours."""
    info = opened.image.info
    if opened.format is PNG and ({"transparency", "gamma", "chromaticity"} & info.keys()):
        return True
    return codes_of(opened.path, opened.format) is not None
