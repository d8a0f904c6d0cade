"""How a file looks on a colour-managed screen, and how much two pictures differ."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from testkit.pictures import Pixels
from testkit.zoo import in_srgb


def seen(path: Path) -> tuple[Pixels, Pixels | None]:
    """Return a file's pixels in sRGB, rotated as EXIF says, and its alpha channel."""
    with Image.open(path) as image:
        turned = ImageOps.exif_transpose(image)
        alpha = np.asarray(turned.getchannel("A")) if "A" in turned.mode else None
        rgb = turned.convert("RGB")
        profile = image.info.get("icc_profile")
        return (in_srgb(rgb, profile) if profile else np.asarray(rgb)), alpha


def on_white(colour: Pixels, alpha: Pixels | None) -> Pixels:
    """Return a picture on a white background."""
    if alpha is None:
        return colour
    share = alpha[..., None] / 255
    return np.rint(colour * share + 255 * (1 - share)).astype(np.uint8)


def _lab(pixels: Pixels) -> NDArray[np.float64]:
    values = pixels / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    matrix = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = linear @ matrix.T / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), axis=-1)


def mean_delta_e(first: Pixels, second: Pixels) -> float:
    """Return the mean CIE 1976 colour difference of two sRGB pictures of the same size."""
    return float(np.sqrt(((_lab(first) - _lab(second)) ** 2).sum(axis=-1)).mean())


def profile_name(path: Path) -> str | None:
    """Return the description of a file's colour profile, None without one."""
    with Image.open(path) as image:
        block = image.info.get("icc_profile")
    if not block:
        return None
    return ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(block))).strip()
