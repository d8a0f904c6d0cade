"""Checks our own decoders against Pillow.

A result is compared with our decoding of its source, so a wrong decoding would pass that check.
Pillow's unpackers share only libtiff's decompression with ours. If the two differ, neither is
trusted. Kinds that Pillow reads wrong, or not at all, have no such check here; tests compare them
with known pixels (`docs/pictures.md`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from upscaled.errors import UnusablePictureError
from upscaled.formats import PictureFormat
from upscaled.imaging.decode.bmp import BmpPicture
from upscaled.imaging.decode.tiff.layout import Extra, Layout, Photometric, SampleKind
from upscaled.imaging.decode.tiff.page import TiffPage

_SIDE = 64
"""Shorter side, in pixels, of the reduced pictures that are compared."""
_LIMIT = 8.0
"""Mean difference in levels. Both decode the same samples, so only rounding and the formulas for
shared colour differences matter: below 2 for each kind in the tests."""
_GREYS = frozenset({Photometric.BLACK_IS_ZERO, Photometric.WHITE_IS_ZERO})


def has_witness(page: TiffPage | BmpPicture) -> bool:
    """Tell whether Pillow can be trusted with files of this kind."""
    if isinstance(page, BmpPicture):
        return page.bits in {8, 24, 32} and page.compression == 0
    return _reads_right(page.layout)


def compare_with_witness(path: Path, kind: PictureFormat, image: Image.Image) -> float | None:
    """Compare ``image``, decoded and turned, with Pillow's decoding of the file at ``path``.

    Returns:
        The mean difference in levels; None where Pillow cannot decode the file.

    Raises:
        UnusablePictureError: the two differ.
    """
    try:
        with Image.open(path, formats=[kind.plugin]) as witness:
            # Pillow would turn the picture by its XMP; the tag, which we go by, it knows anyway.
            for name in ("xmp", "XML:com.adobe.xmp"):
                witness.info.pop(name, None)
            witness.load()
            other = _comparable(witness)
    except MemoryError:
        raise
    except Exception:  # it cannot read the file
        return None
    ours = _comparable(image)
    if ours.mode != other.mode:
        ours, other = ours.convert("RGB"), other.convert("RGB")
    difference = 255.0
    if ours.size == other.size:
        factor = max(1, min(ours.size) // _SIDE)
        pair = (np.asarray(i.reduce(factor)).astype(np.int16) for i in (ours, other))
        difference = float(np.abs(next(pair) - next(pair)).mean())
    if difference > _LIMIT:
        raise UnusablePictureError(
            f"Two decoders read the {kind.label} file's pixels differently, so neither is "
            "trusted; save the picture as PNG and send that."
        )
    return difference


def _reads_right(layout: Layout) -> bool:
    """Tell whether Pillow reads this kind of TIFF correctly, according to the tests."""
    if (
        layout.planar
        or layout.guessed
        or layout.subsampled
        or layout.kind is not SampleKind.UNSIGNED
    ):
        return False
    plain = layout.photometric in {*_GREYS, Photometric.RGB, Photometric.SEPARATED}
    colours = plain or layout.photometric in {Photometric.PALETTE, Photometric.YCBCR}
    alpha = layout.photometric is Photometric.RGB and layout.extras == (Extra.ALPHA,)
    if not colours or (layout.extras and not alpha):
        return False
    if layout.bits == 16:
        return layout.photometric in {Photometric.RGB, Photometric.BLACK_IS_ZERO}
    return layout.bits == 8 or (layout.bits == 1 and layout.photometric in _GREYS)


def _comparable(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image if image.mode in {"L", "RGB", "CMYK"} else image.convert("RGB")
