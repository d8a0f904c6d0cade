"""Converts a decoded picture to 8-bit RGB, a strip at a time."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from upscaled.errors import UnusablePictureError
from upscaled.formats import AVIF, PNG, PictureFormat
from upscaled.imaging.decode import coded_colours
from upscaled.imaging.decode.coded_colours import CodedColours, ToneMap
from upscaled.imaging.decode.reader import Opened
from upscaled.imaging.file_parts import png_chunks
from upscaled.imaging.raw import Pixels

_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
_SRGB_PRIMARIES = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), (0.3127, 0.3290))
_HEAD = 1 << 16
_LEAST_GAMMA = 0.05
"""Neither a gamma below this value nor one above its inverse belongs to a real picture."""
_PHOTOMETRIC = 262
_WHITE_IS_ZERO = 0
_DEEP_MODES = frozenset({"I", "I;16", "I;16B", "I;16L", "F"})


@dataclass
class Colours:
    """Converts the pixels of one picture to RGB and alpha."""

    opened: Opened
    icc: bytes = b""
    """The RGB profile that the converted pixels are still in; empty: sRGB."""
    kept: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    _codes: ColourCodes | None = None
    _transform: ImageCms.ImageCmsTransform | None = None
    _lut: Pixels | None = None
    _range: Pixels | None = None
    """Level in the full range, by level in the file."""
    _tone_map: ToneMap | None = None
    _full: float = 255.0

    def __post_init__(self) -> None:
        image = self.opened.image
        if self.opened.depth > 8:
            self.lost.append(f"{self.opened.depth}-bit depth reduced to 8")
        space = {"CMYK": "CMYK", "LAB": "LAB", "L": "GRAY", "LA": "GRAY", "1": "GRAY"}.get(
            image.mode, "GRAY" if image.mode in _DEEP_MODES else "RGB"
        )
        if self._grey_rgba:
            space = "GRAY"
        self._codes = codes_of(self.opened.path, self.opened.format)
        profile = None if self._is_coded(space) else self._profile(space)
        if space == "LAB":
            lab = profile or ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
            self._transform = transform(lab, "LAB")
            self.kept.append("Lab colours converted to sRGB")
        elif space == "CMYK" and profile is None:
            self.lost.append("CMYK without a profile converted by formula, colours are approximate")
        elif profile is not None and profile.profile.xcolor_space.strip() != "RGB":
            self._transform = transform(profile, "L" if space == "GRAY" else "CMYK")
            self.kept.append(f"colours converted from the file's {space} profile to sRGB")
        elif profile is not None and not profile.profile.is_matrix_shaper:
            # Networks and resampling expect values like sRGB's, which tables are not. A table may
            # also have no inverse for the background colour.
            self._transform = transform(profile, "RGB")
            self.kept.append("colours converted from the file's RGB profile to sRGB")
        elif profile is not None:
            self.icc = self.opened.icc
            self.kept.append("ICC profile")
        elif space in {"RGB", "GRAY"}:
            self._apply_coded()
        if image.mode in {"I", "F"}:
            self._full = _full_scale(image)

    def _profile(self, space: str) -> ImageCms.ImageCmsProfile | None:
        if not self.opened.icc:
            return None
        try:
            profile = ImageCms.ImageCmsProfile(BytesIO(self.opened.icc))
            found = profile.profile.xcolor_space.strip().replace("Lab", "LAB")
            # A grey picture with an RGB profile is a grey picture in that RGB space.
            if found == space or (space == "GRAY" and found == "RGB"):
                transform(profile, {"GRAY": "L", "RGB": "RGB"}.get(found, found))
                return profile
        except (OSError, ImageCms.PyCMSError):
            self.lost.append("ICC profile, which is broken")
            return None
        self.lost.append(f"ICC profile, which is for {found} and not for {space}")
        return None

    @property
    def _grey_rgba(self) -> bool:
        """Pillow opens grey with alpha of 16 bits as RGBA."""
        return self.opened.grey_png and self.opened.image.mode == "RGBA"

    def _is_coded(self, space: str) -> bool:
        """Tell whether the codes in a PNG count and not its profile (PNG, 4.3)."""
        codes = self._codes
        return (
            self.opened.format is PNG
            and space in {"RGB", "GRAY"}
            and codes is not None
            and coded_colours.by_code(codes.primaries, codes.transfer) is not None
        )

    def _apply_coded(self) -> None:
        """Apply the colour space of a PNG or AVIF that has no profile."""
        codes, is_png = self._codes, self.opened.format is PNG
        if self.opened.icc and self._is_coded("RGB"):
            self.lost.append("ICC profile, which the colour codes (cICP) override")
        if is_png and codes is not None and codes.matrix:
            self.lost.append(f"colour matrix of code {codes.matrix} (cICP), which is no RGB")
        if is_png and codes is not None and not codes.full_range:
            self._range = coded_colours.FROM_NARROW
            self.kept.append("narrow range (cICP) widened to full range")
        space = self._coded_space()
        if space is None:
            return
        if space.is_hdr:
            name = "PQ" if space.transfer == coded_colours.PQ else "HLG"
            bands = self.opened.image.convert("RGB").split()
            brightest = max(int(self._in_range(np.asarray(band)).max()) for band in bands)
            self._tone_map = ToneMap(space, brightest)
            self.kept.append(f"HDR ({name}) converted to sRGB")
            if self._tone_map.compresses:
                self.lost.append("brightness above white (HDR), which was compressed")
            return
        self._lut = coded_colours.levels_to_srgb(space)
        if self._lut is not None:
            self.kept.append("gamma converted to sRGB")
        if not space.has_srgb_primaries and not self.opened.one_channel:
            self.icc = coded_colours.profile(space)
            self.kept.append("ICC profile")

    def _coded_space(self) -> CodedColours | None:
        info, kind, codes = self.opened.image.info, self.opened.format, self._codes
        if codes is not None and (codes.primaries, codes.transfer) != (2, 2):
            space = coded_colours.by_code(codes.primaries, codes.transfer)
            if space is None:
                self.lost.append(
                    f"colour space of code {codes.primaries}/{codes.transfer}, which is not "
                    "supported"
                )
            return space
        if kind is not PNG or "srgb" in info:
            return None
        gamma = info.get("gamma")
        if gamma is not None and not _LEAST_GAMMA < gamma < 1 / _LEAST_GAMMA:
            self.lost.append(f"gamma (gAMA) of {gamma:g}, which is invalid")
            gamma = None
        if "chromaticity" in info:
            space = coded_colours.by_primaries(info["chromaticity"], gamma)
            if space is None:
                self.lost.append("chromaticities (cHRM), which make no sense")
            return space
        return CodedColours(_SRGB_PRIMARIES, power=1 / gamma if gamma else None)

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
            strip = strip.getchannel("R") if self._grey_rgba else strip.convert(strip.mode[:-1])
        elif key is not None and alpha is None:
            alpha = self._keyed(np.asarray(strip), key)
        if self._transform is not None:
            strip = ImageCms.applyTransform(strip, self._transform) or strip
        rgb = np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))
        rgb = self._in_range(rgb)
        if self._tone_map is not None:
            return self._tone_map.apply(rgb), alpha
        return (rgb if self._lut is None else self._lut[rgb]), alpha

    def _in_range(self, levels: Pixels) -> Pixels:
        return levels if self._range is None else self._range[levels]

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
        """Return alpha for a PNG that declares one grey or colour transparent (tRNS)."""
        depth = self.opened.depth
        # Pillow stretches 1, 2 and 4 bits to 8, but leaves the key as it is, except for 1 bit.
        if isinstance(key, int) and pixels.ndim == 2:
            key = key * 255 // ((1 << depth) - 1) if 1 < depth < 8 else key
            return np.where(pixels == key, 0, 255).astype(np.uint8)
        if isinstance(key, tuple) and len(key) == 3 and pixels.ndim == 3:
            return np.where((pixels == np.array(key)).all(axis=2), 0, 255).astype(np.uint8)
        return None


@dataclass(frozen=True)
class ColourCodes:
    """Codes of ITU-T H.273."""

    primaries: int
    transfer: int
    matrix: int
    full_range: bool


def codes_of(path: Path, kind: PictureFormat) -> ColourCodes | None:
    """Return the codes in a PNG's cICP or an AVIF's nclx."""
    with path.open("rb") as file:
        if kind is PNG:
            for part in png_chunks(file):
                if part.name == b"IDAT":
                    return None
                if part.name == b"cICP" and part.length == 4:
                    file.seek(part.offset)
                    primaries, transfer, matrix, full_range = file.read(4)
                    return ColourCodes(primaries, transfer, matrix, bool(full_range))
        elif kind is AVIF:
            head = file.read(_HEAD)
            at = head.find(b"colrnclx")
            if 0 <= at <= len(head) - 15:
                primaries, transfer, matrix, flags = struct.unpack_from(">HHHB", head, at + 8)
                return ColourCodes(primaries, transfer, matrix, bool(flags >> 7))
    return None


def _full_scale(image: Image.Image) -> float:
    """Return the value of white in a picture with 32-bit samples.

    Raises:
        UnusablePictureError: its values are neither 0 to 1 nor 16-bit.
    """
    low, high = image.getextrema()
    limit = 1.0 if image.mode == "F" else 65535.0
    if not (isinstance(low, int | float) and isinstance(high, int | float)):
        raise UnusablePictureError(
            "image decode failed: the smallest and largest sample can't be read."
        )
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
    """Return the values that show an sRGB colour in the RGB profile ``icc``.

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
