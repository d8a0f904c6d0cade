"""Grey in, grey out: whatever colours a network paints, a result without colour has one channel."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from testkit import pictures as makers
from testkit.imaging import finished, pixels_of, stored
from testkit.pictures import Pixels, encoded, icc_chunk, png
from testkit.zoo import CARD, COLOUR, FADE, GREY, HOLE
from upscaled.imaging import FinishOptions, Imaging, Prepared
from upscaled.imaging.grey import spread
from upscaled.pictures import RawImage

pytestmark = pytest.mark.asyncio(loop_scope="module")

THREE: Pixels = np.repeat(GREY[..., None], 3, axis=2)
INVISIBLE = np.where(HOLE[..., None] > 0, THREE, COLOUR)
"""Colour only under full transparency."""
FAINT = THREE.copy()
FAINT[7, 7, 2] ^= 1

GREYS: dict[str, bytes] = {
    "1 bit": encoded(CARD.convert("1"), "PNG"),
    "grey": encoded(Image.fromarray(GREY), "PNG"),
    "grey jpeg": encoded(Image.fromarray(GREY), "JPEG"),
    "grey webp": encoded(Image.fromarray(GREY), "WEBP", lossless=True),
    "16 bits": png(GREY[..., None].astype(np.uint16) * 257, 16),
    "alpha": png(np.dstack((GREY, HOLE)), 8),
    "16 bits and alpha": png(np.dstack((GREY, FADE)).astype(np.uint16) * 257, 16),
    "three equal channels": encoded(Image.fromarray(THREE), "PNG"),
    "grey palette": encoded(Image.fromarray(GREY).quantize(16), "PNG"),
    "colour under transparency": png(np.dstack((INVISIBLE, HOLE)), 8),
    "grey profile": png(GREY[..., None], 8, before=icc_chunk(makers.GREY)),
    "rgb profile": png(THREE, 8, before=icc_chunk(makers.LINEAR)),
    "bmp": encoded(CARD.convert("1"), "BMP"),
}
COLOURS: dict[str, bytes] = {
    "one pixel by one level": encoded(Image.fromarray(FAINT), "PNG"),
    "visible colour": png(np.dstack((INVISIBLE, np.maximum(HOLE, 1))), 8),
}


async def _prepared(data: bytes, imaging: Imaging, folder: Path) -> Prepared:
    upload = folder / "upload"
    upload.write_bytes(data)
    return await imaging.prepare(upload, folder)


def _painted(prepared: Prepared) -> RawImage:
    """Enlarge the source and paint it pink, as networks do to screentones."""
    source = pixels_of(prepared.source).astype(np.int16)
    tinted = np.clip(source + np.array([14, -10, 8]), 0, 255).astype(np.uint8)
    native = tinted.repeat(2, axis=0).repeat(2, axis=1)
    return stored(native, prepared.source.path.with_name("native.rgb"))


@pytest.mark.parametrize("name", GREYS)
async def test_a_grey_picture_has_a_grey_result(
    name: str, imaging: Imaging, tmp_path: Path
) -> None:
    prepared = await _prepared(GREYS[name], imaging, tmp_path)
    assert prepared.grey
    source = pixels_of(prepared.source)
    assert (source == source[..., :1]).all()
    native = _painted(prepared)
    for kind, modes in (("png", "L LA"), ("jpg", "L L"), ("webp", "RGB RGBA")):
        for size in (native.size, prepared.source.size.times(3)):
            options = FinishOptions(kind, size)
            done = await finished(imaging, prepared, native, tmp_path, options)
            with Image.open(done.path) as image:
                assert image.mode == modes.split()[prepared.alpha is not None]
                assert "icc_profile" not in image.info
                rgb = np.asarray(image.convert("RGB"))
            # Lossy WebP stores colour differences, and rounds when it adds them up.
            assert spread(rgb) <= (3 if kind == "webp" else 0)
            if kind == "png" and prepared.alpha is None and size == native.size:
                off = rgb[::2, ::2].astype(int) - source
                assert np.abs(off).max() < 8, "not as light as the source"


@pytest.mark.parametrize("name", COLOURS)
async def test_the_least_colour_is_kept(name: str, imaging: Imaging, tmp_path: Path) -> None:
    prepared = await _prepared(COLOURS[name], imaging, tmp_path)
    assert not prepared.grey


async def test_a_grey_picture_laid_on_a_colour_has_colour(imaging: Imaging, tmp_path: Path) -> None:
    prepared = await _prepared(GREYS["alpha"], imaging, tmp_path)
    native = _painted(prepared)
    for background, mode in (((10, 200, 30), "RGB"), ((9, 9, 9), "L")):
        options = FinishOptions("jpg", native.size, background=background)
        done = await finished(imaging, prepared, native, tmp_path, options)
        with Image.open(done.path) as image:
            assert image.mode == mode
            seen = image.convert("RGB").getpixel((52, 40))
        assert isinstance(seen, tuple)
        assert np.abs(np.subtract(seen, background)).max() < 9


async def test_greys_in_an_rgb_profile_look_as_before(imaging: Imaging, tmp_path: Path) -> None:
    prepared = await _prepared(GREYS["rgb profile"], imaging, tmp_path)
    linear = ImageCms.ImageCmsProfile(io.BytesIO(makers.LINEAR))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    wanted = np.asarray(ImageCms.profileToProfile(Image.fromarray(THREE), linear, srgb))
    assert np.abs(pixels_of(prepared.source).astype(int) - wanted).max() <= 2
    assert any("profile" in phrase for phrase in prepared.kept)


async def test_a_profile_that_colours_greys_keeps_three_channels(
    imaging: Imaging, tmp_path: Path
) -> None:
    primaries = ((0.5, 0.3, 0.1), (0.3, 0.6, 0.1), (0.1, 0.1, 0.3))
    tinting = makers.rgb_profile(2.2, primaries)
    data = png(THREE, 8, before=icc_chunk(tinting))
    prepared = await _prepared(data, imaging, tmp_path)
    assert not prepared.grey
    assert "ICC profile" in prepared.kept
