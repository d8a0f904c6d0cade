"""The engine's pixels become the finished file, which is read back before it counts."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from upscaled.errors import EngineError
from upscaled.imaging.alpha import Enlarger
from upscaled.imaging.colour import in_profile, profile_to_srgb
from upscaled.imaging.encode import JPEG_EXIF_LIMIT, encode, is_lossless, mean_error_allowed
from upscaled.imaging.raw import Pixels, read_rows, strips
from upscaled.imaging.records import DOUBTFUL, HOPELESS, Finished, FinishOptions, Prepared
from upscaled.imaging.resample import resample
from upscaled.imaging.sidecar import Sidecar, resized
from upscaled.imaging.verify import likeness
from upscaled.pictures import RawImage

_CELL = 32
"""Side of the blocks whose means are compared between encoded and decoded file, in pixels."""
_PLUGIN = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}


@dataclass
class _Fingerprint:
    """What a picture's pixels come to: a hash of all of them, and local means.

    Colour counts as much as it is visible, since encoders change what is under transparency.
    """

    means: list[NDArray[np.float32]] = field(default_factory=list)
    sha256: hashlib._Hash = field(default_factory=hashlib.sha256)

    def add(self, rows: Pixels) -> None:
        """Take the next rows, RGB or RGBA; all but the last strip a multiple of `_CELL` high."""
        if rows.shape[2] == 4:
            rows = np.concatenate((rows[..., :3] * (rows[..., 3:] > 0), rows[..., 3:]), axis=2)
        self.sha256.update(np.ascontiguousarray(rows).data)
        image = Image.fromarray(rows)
        if image.mode == "RGBA":
            image = image.convert("RGBa")
        self.means.append(np.asarray(image.reduce(_CELL), np.float32))

    def difference(self, other: _Fingerprint) -> float:
        """Return the largest difference of a local mean, in levels."""
        return float(np.abs(np.concatenate(self.means) - np.concatenate(other.means)).max())


def finish(prepared: Prepared, native: RawImage, workdir: Path, options: FinishOptions) -> Finished:
    """Verify ``native``, bring it to its promised size, write it, read it back.

    Raises:
        UnlikeError: ``native`` is not the enlarged source.
        EngineError: the written file does not hold what was written.
        OSError: it could not be written.
        MemoryError: it needs more memory than this process may have.
    """
    most = HOPELESS if options.confirmed else DOUBTFUL
    score = likeness(prepared.source, native, 0, prepared.source.size.height, most)
    kept, lost = list(prepared.kept), list(prepared.lost)
    icc, exif = _metadata(prepared, options, kept, lost)
    to_srgb = None
    if not options.keep_metadata:
        profile = Sidecar.load(prepared.sidecar).icc
        to_srgb = profile_to_srgb(profile) if profile else None
    elif icc and prepared.alpha is not None:
        # A colour the caller names is meant as sRGB; the pixels are in the picture's own profile.
        options = replace(options, background=in_profile(options.background, icc))
    image, written = _assembled(prepared, native, options, to_srgb)
    if prepared.alpha is not None and options.format == "jpg":
        kept.remove("transparency")
        lost.append("transparency, laid on the background colour")
    path = workdir / f"result.{options.format}"
    part = path.with_suffix(".part")
    try:
        encode(image, part, options, icc, exif)
        image.close()
        _check_written(part, written, options)
        digest = hashlib.sha256()
        with part.open("rb") as file:
            os.fsync(file.fileno())
            while block := file.read(1 << 20):
                digest.update(block)
        part.rename(path)
        folder = os.open(workdir, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        part.unlink(missing_ok=True)
    return Finished(
        path, options.size, path.stat().st_size, digest.hexdigest(), score, tuple(kept), tuple(lost)
    )


def _metadata(
    prepared: Prepared, options: FinishOptions, kept: list[str], lost: list[str]
) -> tuple[bytes, bytes]:
    """Return profile and EXIF block for the result, and correct what is said of them."""
    if prepared.sidecar is None:
        return b"", b""
    sidecar = Sidecar.load(prepared.sidecar)
    if not options.keep_metadata:
        for phrase in {"ICC profile", "EXIF"} & set(kept):
            kept.remove(phrase)
            lost.append(f"{phrase}, as was asked for")
        return b"", b""
    exif = resized(sidecar.exif, options.size) if sidecar.exif else b""
    if options.format == "jpg" and len(exif) > JPEG_EXIF_LIMIT:
        kept.remove("EXIF")
        lost.append(f"EXIF of {len(exif)} bytes, more than a JPEG holds")
        exif = b""
    return sidecar.icc, exif


def _assembled(
    prepared: Prepared,
    native: RawImage,
    options: FinishOptions,
    to_srgb: ImageCms.ImageCmsTransform | None,
) -> tuple[Image.Image, _Fingerprint]:
    """Return the picture as it is to be encoded, and its fingerprint."""
    size = options.size
    enlarger = None
    if prepared.alpha is not None:
        rows = read_rows(prepared.alpha, 0, prepared.alpha.size.height)[..., 0]
        enlarger = Enlarger(Image.fromarray(rows), size)
    with_alpha = enlarger is not None and options.format != "jpg"
    image = Image.new("RGBA" if with_alpha else "RGB", (size.width, size.height))
    fingerprint = _Fingerprint()
    for top, bottom in strips(size.height, 4 * size.width, _CELL):
        if size == native.size:
            pixels = read_rows(native, top, bottom)
        else:
            pixels = resample(native, size, top, bottom)
        if to_srgb is not None:
            converted = ImageCms.applyTransform(Image.fromarray(pixels), to_srgb)
            pixels = np.asarray(converted)
        if enlarger is not None:
            alpha = enlarger.rows(top, bottom)[..., None]
            if with_alpha:
                pixels = np.concatenate((pixels, alpha), axis=2)
            else:
                share = alpha.astype(np.float32) / 255
                flat = pixels * share + np.array(options.background, np.float32) * (1 - share)
                pixels = np.rint(flat).astype(np.uint8)
        fingerprint.add(pixels)
        image.paste(Image.fromarray(pixels), (0, top))
    return image, fingerprint


def _check_written(path: Path, written: _Fingerprint, options: FinishOptions) -> None:
    """Decode the file completely and compare it with what went into it.

    Raises:
        EngineError: it differs.
    """
    found = _Fingerprint()
    try:
        with Image.open(path, formats=[_PLUGIN[options.format]]) as image:
            image.load()
            if image.size != (options.size.width, options.size.height):
                raise EngineError(
                    f"The written file is {image.size[0]}×{image.size[1]}, not {options.size}."
                )
            for top, bottom in strips(image.height, 4 * image.width, _CELL):
                found.add(_same_shape(image.crop((0, top, image.width, bottom)), written))
    except (OSError, SyntaxError, ValueError) as error:
        raise EngineError(f"The written file cannot be read back: {error}.") from error
    if found.sha256.digest() == written.sha256.digest():
        return
    allowed = mean_error_allowed(options)
    moved = written.difference(found)
    if is_lossless(options) or moved > allowed:
        raise EngineError(
            f"The written file does not hold what was written: local means differ by {moved:.1f} "
            f"levels, {allowed:.1f} are allowed."
        )


def _same_shape(strip: Image.Image, written: _Fingerprint) -> Pixels:
    """Return the strip's pixels with alpha where the written picture had it.

    An encoder may leave out an alpha channel that is wholly opaque at its place.
    """
    with_alpha = written.means[0].shape[2] == 4
    return np.asarray(strip.convert("RGBA" if with_alpha else "RGB"))
