"""The matrix of TIFF files: samples of every kind, and what they look like."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from testkit.pictures import Pixels
from testkit.tiffs import Kind, Samples, eight_bits, kinds, quantised
from testkit.zoo import COLOUR, FADE, GREY

HEIGHT, WIDTH = 21, 37
RGB = COLOUR[:HEIGHT, :WIDTH]
LIGHT = GREY[:HEIGHT, :WIDTH]
ALPHA = np.maximum(FADE[:HEIGHT, :WIDTH], 60)
OTHER = COLOUR[HEIGHT : 2 * HEIGHT, :WIDTH, 0]
"""A channel that means nothing to us."""
PALETTE = np.random.default_rng(3).integers(0, 256, (256, 3), np.uint8)
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
_LAB = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))


ALL = tuple(dict.fromkeys(kinds()))


def _ycbcr(rgb: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(rgb).convert("YCbCr"))


def case_of(kind: Kind) -> tuple[Samples, Pixels, dict[int, tuple[int, bytes]]]:
    """Return samples of this kind, what they look like, and the tags they need."""
    if kind.photometric == "palette":
        index = (LIGHT >> (8 - kind.bits)).astype(np.uint8)
        colours = PALETTE[: 1 << kind.bits]
        table = (colours.T.astype(np.uint16) * 257).astype(f"{kind.order}u2").tobytes()
        return index[..., None], colours[index], {320: (3, table)}
    if kind.photometric in {"cielab", "icclab"}:
        return (*_lab_case(kind), {})
    if kind.photometric == "ycbcr":
        samples = RGB if kind.compression == "jpeg" else _ycbcr(RGB)
        return samples, RGB, {}
    base: NDArray[Any] = {
        "black is zero": LIGHT[..., None], "white is zero": LIGHT[..., None], "rgb": RGB,
        "separated": np.dstack((255 - RGB, np.zeros_like(LIGHT))),
    }[kind.photometric]  # fmt: skip
    extra = [ALPHA if kind_ == 2 else OTHER for kind_ in kind.extras]
    samples = quantised(np.dstack((base, *extra)) / 255, kind.bits, kind.sample)
    if kind.compression in {"ccitt", "g3", "g4"}:
        samples = (LIGHT > 128).astype(np.uint8)[..., None]
    seen = eight_bits(samples, kind.bits, kind.sample)
    colour = seen[..., : base.shape[2]]
    if kind.photometric == "white is zero":
        colour = 255 - colour
    if kind.photometric == "separated":
        colour = 255 - colour[..., :3]
    return samples, colour, {}


def _lab_case(kind: Kind) -> tuple[Samples, Pixels]:
    made = ImageCms.profileToProfile(Image.fromarray(RGB), _SRGB, _LAB, outputMode="LAB")
    assert made is not None
    lab = np.asarray(made).astype(np.int32)
    back = ImageCms.profileToProfile(made, _LAB, _SRGB, outputMode="RGB")
    axes = lab[..., 1:].astype(np.uint8).view(np.int8).astype(np.int32)  # as Pillow gives them
    if kind.photometric == "icclab":
        axes = axes + 128
    white = {("icclab", 16): 0xFF00, ("cielab", 16): 0xFFFF}.get((kind.photometric, kind.bits), 255)
    light = np.rint(lab[..., :1] * (white / 255))
    axes = axes * 256 if kind.bits == 16 else axes
    whole = np.concatenate((light, axes), axis=2).astype(np.int64)
    return (whole % (1 << kind.bits)).astype(f"u{kind.bits // 8}"), np.asarray(back)
