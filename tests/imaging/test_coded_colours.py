"""Colours defined by codes, primaries or tables look right, or the receipt says why not."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from testkit import pictures as makers
from testkit.eye import mean_delta_e, on_white, seen
from testkit.imaging import enlarged, finished, pixels_of
from testkit.pictures import Pixels, chunk, encoded, icc_chunk, png
from testkit.zoo import CARD, COLOUR, GREY, HOLE, in_srgb
from upscaled.formats import RESULT_NAMES
from upscaled.imaging import Finished, FinishOptions, Imaging
from upscaled.imaging.decode import coded_colours

pytestmark = pytest.mark.asyncio(loop_scope="module")


def cicp(primaries: int, transfer: int) -> bytes:
    return chunk(b"cICP", bytes((primaries, transfer, 0, 1)))


async def looks(
    data: bytes, imaging: Imaging, folder: Path, wanted: Pixels, most: float = 3
) -> Finished:
    """Check how the results look in every format, with metadata and without."""
    (folder / "upload").write_bytes(data)
    prepared = await imaging.prepare(folder / "upload", folder)
    native = enlarged(prepared)
    size = (native.size.width, native.size.height)
    reference = np.asarray(Image.fromarray(wanted).resize(size, Image.Resampling.LANCZOS).reduce(2))
    for kept in (True, False):
        for kind in RESULT_NAMES:
            options = FinishOptions(kind, native.size, keep_metadata=kept)
            done = await finished(imaging, prepared, native, folder, options)
            shown = Image.fromarray(on_white(*seen(done.path))).reduce(2)
            assert mean_delta_e(np.asarray(shown), reference) < most, (kind, kept)
            if kind == "png" and kept:
                first = done
    return first


def _p3() -> bytes:
    space = coded_colours.by_code(12, 13)
    assert space is not None
    return coded_colours.profile(space)


async def test_a_made_profile_is_that_of_its_primaries() -> None:
    srgb = coded_colours.by_code(1, 13)
    assert srgb is not None
    same = in_srgb(CARD, coded_colours.profile(srgb))
    assert np.abs(same.astype(int) - COLOUR).max() <= 2
    # Display P3's red, (255, 0, 0) there, is beyond sRGB's; half of it is not.
    (pixel,) = in_srgb(Image.new("RGB", (1, 1), (200, 80, 80)), _p3())[0]
    assert np.abs(pixel.astype(int) - (217, 69, 73)).max() <= 3


@pytest.mark.parametrize("kind", ["png", "avif"])
async def test_p3_by_its_code(kind: str, imaging: Imaging, tmp_path: Path) -> None:
    if kind == "png":
        data = png(COLOUR, 8, before=cicp(12, 13))
    else:
        plain = bytearray(encoded(CARD, "AVIF", quality=95))
        at = plain.index(b"colrnclx")
        plain[at + 8 : at + 12] = struct.pack(">HH", 12, 13)
        data = bytes(plain)
    done = await looks(data, imaging, tmp_path, in_srgb(CARD, _p3()))
    assert "ICC profile" in done.kept


async def test_wide_primaries_and_linear_light_in_a_png(imaging: Imaging, tmp_path: Path) -> None:
    wide = (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
    body = struct.pack(">8I", *(round(v * 100_000) for v in wide))
    chunks = chunk(b"cHRM", body) + chunk(b"gAMA", (45455).to_bytes(4, "big"))
    done = await looks(png(COLOUR, 8, before=chunks), imaging, tmp_path, in_srgb(CARD, _p3()))
    assert "ICC profile" in done.kept


@pytest.mark.parametrize("primaries", [1, 9, 12])
async def test_pq_below_diffuse_white_looks_as_it_is(
    primaries: int, imaging: Imaging, tmp_path: Path
) -> None:
    space = coded_colours.by_code(primaries, coded_colours.PQ)
    srgb = coded_colours.by_code(1, 13)
    assert space is not None
    assert srgb is not None
    light = coded_colours._decoded(COLOUR / 255)
    there = np.linalg.inv(coded_colours._to_xyz(space.primaries)) @ coded_colours._to_xyz(
        srgb.primaries
    )
    levels = coded_colours._pq_levels(np.clip(light @ there.T, 0, 1) * 203)
    data = png(np.rint(levels * 255).astype(np.uint8), 8, before=cicp(primaries, 16))
    done = await looks(data, imaging, tmp_path, COLOUR)
    assert "HDR (PQ) converted to sRGB" in done.kept
    assert done.lost == ()


@pytest.mark.parametrize("transfer", [16, 18])
async def test_what_is_brighter_than_white_is_compressed_and_told(
    transfer: int, imaging: Imaging, tmp_path: Path
) -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 64, axis=0).repeat(3, axis=2)
    (tmp_path / "upload").write_bytes(png(ramp, 8, before=cicp(9, transfer)))
    prepared = await imaging.prepare(tmp_path / "upload", tmp_path)
    made = pixels_of(prepared.source)[0].astype(int)
    steps = np.diff(made[:, 0])
    assert steps.min() >= 0
    assert made[-1].min() >= 250
    assert made[0].max() == 0
    assert np.ptp(made, axis=1).max() <= 2
    # Diffuse white is bright, and there is room above it.
    white = made[148 if transfer == 16 else 191, 0]
    assert 150 < white < 245
    assert any("HDR" in words for words in prepared.lost)


async def test_a_code_that_nobody_knows_is_told(imaging: Imaging, tmp_path: Path) -> None:
    done = await looks(png(COLOUR, 8, before=cicp(77, 99)), imaging, tmp_path, COLOUR)
    assert "colour space of code 77/99, which is not supported" in done.lost


@pytest.mark.parametrize("depth", [8, 16])
async def test_a_grey_profile_with_alpha(depth: int, imaging: Imaging, tmp_path: Path) -> None:
    samples = np.dstack((GREY, HOLE)).astype(np.uint16) * (257 if depth == 16 else 1)
    data = png(samples, depth, before=icc_chunk(makers.GREY))
    wanted = on_white(in_srgb(Image.fromarray(GREY), makers.GREY), HOLE)
    done = await looks(data, imaging, tmp_path, wanted)
    assert any("GRAY profile" in words for words in done.kept)


@pytest.mark.parametrize("transparent", [False, True])
async def test_a_scanners_profile_without_a_way_back(
    transparent: bool, imaging: Imaging, tmp_path: Path
) -> None:
    picture, wanted = CARD.copy(), in_srgb(CARD, makers.SCANNER)
    if transparent:
        picture.putalpha(Image.fromarray(HOLE))
        wanted = on_white(wanted, HOLE)
    data = encoded(picture, "PNG", icc_profile=makers.SCANNER)
    await looks(data, imaging, tmp_path, wanted)


async def test_a_picture_in_xyb_is_not_tinted(imaging: Imaging, tmp_path: Path) -> None:
    picture = Image.fromarray(makers.xyb(COLOUR))
    (tmp_path / "upload").write_bytes(encoded(picture, "PNG", icc_profile=makers.XYB))
    prepared = await imaging.prepare(tmp_path / "upload", tmp_path)
    exact = mean_delta_e(pixels_of(prepared.source), COLOUR)
    assert exact < 1.4, exact


async def test_chromaticities_and_codes_of_any_kind_harm_nothing() -> None:
    generator = np.random.default_rng(5)
    for _ in range(300):
        places = generator.uniform(-0.2, 1.2, 8).tolist()
        space = coded_colours.by_primaries(places, float(generator.uniform(0, 3)))
        if space is not None:
            assert len(coded_colours.profile(space)) > 1000
            coded_colours.levels_to_srgb(space)
    assert coded_colours.by_primaries([0.0] * 8, None) is None
    assert coded_colours.by_primaries([0.3] * 8, None) is None


@pytest.mark.parametrize("depth", [8, 16])
async def test_a_narrow_range_is_widened(depth: int, imaging: Imaging, tmp_path: Path) -> None:
    scale = 257 if depth == 16 else 1
    narrow = np.rint(COLOUR * (219 / 255) + 16).astype(int) * scale
    data = png(narrow, depth, before=chunk(b"cICP", bytes((1, 13, 0, 0))))
    done = await looks(data, imaging, tmp_path, COLOUR)
    assert "narrow range (cICP) widened to full range" in done.kept
    grey = np.rint(GREY[..., None] * (219 / 255) + 16).astype(int) * scale
    data = png(grey, depth, before=chunk(b"cICP", bytes((2, 2, 0, 0))))
    await looks(data, imaging, tmp_path, GREY[..., None].repeat(3, axis=2))


async def test_codes_of_a_png_count_and_not_its_profile(imaging: Imaging, tmp_path: Path) -> None:
    data = png(COLOUR, 8, before=icc_chunk(_p3()) + cicp(1, 13))
    done = await looks(data, imaging, tmp_path, COLOUR)
    assert "ICC profile, which the colour codes (cICP) override" in done.lost


def _broken_icc() -> bytes:
    return chunk(b"iCCP", b"x\0\0" + b"no zlib stream")


@pytest.mark.parametrize(
    ("before", "behind", "told"),
    [
        (icc_chunk(bytes(range(200))), b"", "ICC profile, which is broken"),
        (_broken_icc(), b"", "ICC profile, which is broken"),
        (b"", icc_chunk(_p3()), "ICC profile, which comes after the pixels"),
    ],
)
async def test_a_profile_of_a_png_that_does_not_count_is_told_once(
    before: bytes, behind: bytes, told: str, imaging: Imaging, tmp_path: Path
) -> None:
    whole = png(COLOUR, 8, before=before)
    end = whole.rindex(b"IEND") - 4
    done = await looks(whole[:end] + behind + whole[end:], imaging, tmp_path, COLOUR)
    assert done.lost == (told,)


async def test_lab_with_a_profile_for_lab_is_lab(imaging: Imaging, tmp_path: Path) -> None:
    lab = ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(CARD, ImageCms.createProfile("sRGB"), lab, outputMode="LAB")
    assert image is not None
    data = encoded(image, "TIFF", icc_profile=ImageCms.ImageCmsProfile(lab).tobytes())
    done = await looks(data, imaging, tmp_path, COLOUR)
    assert "Lab colours converted to sRGB" in done.kept
    assert done.lost == ()


@pytest.mark.parametrize("gamma", [0, 1, 4_000_000_000])
@pytest.mark.parametrize("with_primaries", [False, True])
async def test_a_gamma_without_sense_is_told(
    gamma: int, with_primaries: bool, imaging: Imaging, tmp_path: Path
) -> None:
    before = chunk(b"gAMA", struct.pack(">I", gamma))
    if with_primaries:
        places = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
        before += chunk(b"cHRM", struct.pack(">8I", *places))
    done = await looks(png(COLOUR, 8, before=before), imaging, tmp_path, COLOUR)
    told = f"gamma (gAMA) of {gamma / 100_000:g}, which is invalid"
    assert told in done.lost
