"""Any decoded picture becomes 8-bit RGB, a strip at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from upscaled.errors import UnusablePictureError
from upscaled.imaging.decode.reader import Opened
from upscaled.imaging.raw import Pixels

_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
_SRGB_GAMMA = 1 / 2.2
_PHOTOMETRIC = 262
_WHITE_IS_ZERO = 0
_DEEP_MODES = frozenset({"I", "I;16", "I;16B", "I;16L", "F"})


@dataclass
class Colours:
    """How the pixels of one picture become RGB and alpha."""

    opened: Opened
    icc: bytes = b""
    """The RGB profile that the converted pixels are still in; empty: sRGB."""
    kept: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    _transform: ImageCms.ImageCmsTransform | None = None
    _lut: Pixels | None = None
    _full: float = 255.0

    def __post_init__(self) -> None:
        image = self.opened.image
        if self.opened.depth > 8:
            self.lost.append(f"{self.opened.depth}-bit depth reduced to 8")
        space = {"CMYK": "CMYK", "LAB": "LAB", "L": "GRAY", "LA": "GRAY", "1": "GRAY"}.get(
            image.mode, "GRAY" if image.mode in _DEEP_MODES else "RGB"
        )
        profile = self._profile(space)
        if space == "LAB":
            lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
            self._transform = transform(lab, "LAB")
            self.kept.append("Lab colours converted to sRGB")
        elif space == "CMYK" and profile is None:
            self.lost.append("CMYK without a profile converted by formula, colours are approximate")
        elif profile is not None and profile.profile.xcolor_space.strip() != "RGB":
            self._transform = transform(profile, "L" if space == "GRAY" else "CMYK")
            self.kept.append(f"colours converted from the file's {space} profile to sRGB")
        elif profile is not None:
            self.icc = self.opened.icc
            self.kept.append("ICC profile")
        elif image.format == "PNG" and "srgb" not in image.info:
            self._apply_gamma(image.info.get("gamma"))
        if image.mode in {"I", "F"}:
            self._full = _full_scale(image)

    def _profile(self, space: str) -> ImageCms.ImageCmsProfile | None:
        if not self.opened.icc:
            return None
        try:
            profile = ImageCms.ImageCmsProfile(BytesIO(self.opened.icc))
            found = profile.profile.xcolor_space.strip()
            # A grey picture with an RGB profile is a grey picture in that RGB space.
            if found == space or (space == "GRAY" and found == "RGB"):
                transform(profile, {"GRAY": "L", "RGB": "RGB"}.get(found, found))
                return profile
        except (OSError, ImageCms.PyCMSError):
            self.lost.append("ICC profile, which is broken")
            return None
        self.lost.append(f"ICC profile, which is for {found} and not for {space}")
        return None

    def _apply_gamma(self, gamma: float | None) -> None:
        # Within 5 % of sRGB's exponent a viewer shows the numbers as they are (PNG, 13.13).
        if gamma and abs(gamma / _SRGB_GAMMA - 1) > 0.05:
            levels = np.linspace(0, 1, 256) ** (_SRGB_GAMMA / gamma)
            self._lut = np.rint(levels * 255).astype(np.uint8)
            self.kept.append("gamma converted to sRGB")

    def rgb_and_alpha(self, top: int, bottom: int) -> tuple[Pixels, Pixels | None]:
        """Return the rows from ``top`` to ``bottom`` of the decoded, turned picture."""
        image = self.opened.image
        strip = image.crop((0, top, image.width, bottom))
        alpha: Pixels | None = None
        if self.opened.alpha is not None:
            alpha = self.opened.alpha[top:bottom]
        key = image.info.get("transparency")
        if strip.mode in {"La", "RGBa"}:
            strip = strip.convert(strip.mode.upper())
        if strip.mode in _DEEP_MODES:
            deep = np.asarray(strip)
            if isinstance(key, int):
                alpha = np.where(deep == key, 0, 255).astype(np.uint8)
            strip = Image.fromarray(self._to_8_bit(deep))
        elif strip.mode in {"P", "PA"}:
            strip = strip.convert("RGBA" if key is not None or strip.mode == "PA" else "RGB")
        elif strip.mode == "1":
            strip = strip.convert("L")
        if strip.mode in {"LA", "RGBA"}:
            alpha = np.asarray(strip.getchannel("A"))
            strip = strip.convert(strip.mode[:-1])
        elif key is not None and alpha is None:
            alpha = self._keyed(np.asarray(strip), key)
        if self._transform is not None:
            strip = ImageCms.applyTransform(strip, self._transform) or strip
        rgb = np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))
        return (rgb if self._lut is None else self._lut[rgb]), alpha

    def _to_8_bit(self, deep: NDArray[np.generic]) -> Pixels:
        if not np.isfinite(deep).all():
            raise UnusablePictureError(
                "The picture has samples that are not numbers; send 8 or 16 bits a sample."
            )
        values = np.clip(np.rint(deep.astype(np.float32) * (255 / self._full)), 0, 255)
        if self.opened.image.mode.startswith("I;16"):
            values = np.rint(deep.astype(np.float32) * (255 / 65535))
        eight: Pixels = values.astype(np.uint8)
        tags = getattr(self.opened.image, "tag_v2", {})
        return 255 - eight if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else eight

    def _keyed(self, pixels: Pixels, key: object) -> Pixels | None:
        """Return alpha where a PNG names one grey or colour as transparent (tRNS)."""
        depth = self.opened.depth
        # Pillow stretches 1, 2 and 4 bits to 8 and cuts 16 to 8, but leaves the key as it is,
        # except for 1 bit.
        if isinstance(key, int) and pixels.ndim == 2:
            key = key * 255 // ((1 << depth) - 1) if 1 < depth < 8 else key
            return np.where(pixels == key, 0, 255).astype(np.uint8)
        if isinstance(key, tuple) and len(key) == 3 and pixels.ndim == 3:
            wanted = np.array([k >> 8 if depth == 16 else k for k in key])
            return np.where((pixels == wanted).all(axis=2), 0, 255).astype(np.uint8)
        return None


def _full_scale(image: Image.Image) -> float:
    """Return the value that is white in a picture of 32-bit samples.

    Raises:
        UnusablePictureError: its values are neither 0 to 1 nor 16-bit.
    """
    low, high = image.getextrema()
    limit = 1.0 if image.mode == "F" else 65535.0
    if not (isinstance(low, int | float) and isinstance(high, int | float)):
        raise UnusablePictureError("image decode failed: its samples have no extremes.")
    if not 0 <= low <= high <= limit:
        raise UnusablePictureError(
            f"The picture's 32-bit samples go from {low:g} to {high:g}, so it does not say which "
            "is white; send 8 or 16 bits a sample."
        )
    return limit


def transform(profile: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    """Return the conversion of ``mode`` pixels in ``profile`` to sRGB.

    Relative colorimetric with black point compensation, as browsers and image editors do.

    Raises:
        ImageCms.PyCMSError: the profile is broken.
    """
    return ImageCms.buildTransform(profile, _SRGB, mode, "RGB", _INTENT, _FLAGS)


def in_profile(colour: tuple[int, int, int], icc: bytes) -> tuple[int, int, int]:
    """Return an sRGB colour as the numbers that show it in the RGB profile ``icc``.

    Raises:
        ImageCms.PyCMSError: the profile is broken.
    """
    profile = ImageCms.ImageCmsProfile(BytesIO(icc))
    there = ImageCms.buildTransform(_SRGB, profile, "RGB", "RGB", _INTENT, _FLAGS)
    pixel = ImageCms.applyTransform(Image.new("RGB", (1, 1), colour), there)
    red, green, blue = np.asarray(pixel)[0, 0]
    return int(red), int(green), int(blue)


def profile_to_srgb(icc: bytes) -> ImageCms.ImageCmsTransform:
    """Return the conversion of RGB pixels in the profile ``icc`` to sRGB."""
    return transform(ImageCms.ImageCmsProfile(BytesIO(icc)), "RGB")
